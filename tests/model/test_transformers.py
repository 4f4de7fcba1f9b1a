"""Parity with transformers, live, on shapes drawn by seed; the weights travel through files."""

import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.cache import KVCache
from gesso.checkpoint import load_network, save_checkpoint
from gesso.config import RopeConfig
from gesso.kernels.rope import inverse_frequencies
from gesso.model.network import Network

transformers = pytest.importorskip("transformers")

# Float32 sums in different orders, through up to six layers, on values of up to 6: the other
# implementation itself differs by 1.1e-5 between two loads of the same weights. A missing factor
# or a mask that is off by one column shows as 1e-2.
TOLERANCE = 3e-5

IMAGE, BEGIN, END = 60, 61, 62  # inside the smallest vocabulary
ORDINARY = 60  # ids below are ordinary tokens


POST_NORMS = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")


class Shape(NamedTuple):
    text: dict[str, Any]
    vision: dict[str, Any]
    canvas: int
    odd_experts: bool

    @property
    def window(self) -> int:
        return int(self.text["sliding_window"])


def draw_shape(seed: int) -> Shape:
    rng = random.Random(seed)
    layers, kv_heads, global_kv_heads = rng.randint(2, 6), rng.choice((1, 2, 3)), rng.choice((1, 2))
    experts = rng.randint(3, 9)
    # At least one of each kind: padding masks are built from a layer of either.
    types = ["sliding_attention", "full_attention"]
    kinds = [types[0], *rng.choices(types, k=layers - 2), types[1]]
    text = dict(
        vocab_size=rng.randint(64, 300),
        hidden_size=rng.choice((32, 48, 80)),
        intermediate_size=rng.choice((40, 64)),
        moe_intermediate_size=rng.choice((8, 24)),
        num_hidden_layers=layers,
        num_attention_heads=6 * rng.choice((1, 2)),
        num_key_value_heads=kv_heads,
        head_dim=rng.choice((8, 16)),
        num_global_key_value_heads=global_kv_heads,
        global_head_dim=rng.choice((16, 32, 64)),
        num_experts=experts,
        top_k_experts=rng.choice((1, 2, experts)),
        sliding_window=rng.randint(3, 12),
        max_position_embeddings=2048,
        layer_types=kinds,
        use_bidirectional_attention="vision",
        final_logit_softcapping=rng.choice((30.0, 5.0)),
        rope_parameters=dict(
            sliding_attention=dict(rope_type="default", rope_theta=rng.choice((1e3, 1e4))),
            full_attention=dict(
                rope_type="proportional",
                rope_theta=rng.choice((1e5, 1e6)),
                partial_rotary_factor=rng.choice((0.25, 0.5, 1.0)),
            ),
        ),
    )
    heads, head_dim = rng.choice((1, 2, 3)), rng.choice((8, 12, 16))
    vision = dict(
        model_type="gemma4_vision",
        hidden_size=rng.choice((24, 40)),
        intermediate_size=rng.choice((32, 56)),
        num_hidden_layers=rng.randint(1, 3),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        patch_size=rng.choice((2, 4)),
        position_embedding_size=rng.choice((32, 50)),
        pooling_kernel_size=rng.choice((2, 3)),
        standardize=rng.random() < 0.7,
        use_clipped_linears=False,
        rope_parameters=dict(rope_theta=100.0, rope_type="default"),
    )
    return Shape(text, vision, rng.randint(3, 12), odd_experts=rng.random() < 0.5)


class Oracle:
    """The other implementation, called as its own `generate` calls it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config

    @classmethod
    def random(cls, shape: Shape, seed: int) -> "Oracle":
        config = transformers.DiffusionGemmaConfig(
            text_config=dict(shape.text),
            vision_config=dict(shape.vision),
            canvas_length=shape.canvas,
            image_token_id=IMAGE,
            boi_token_id=BEGIN,
            eoi_token_id=END,
        )
        config._attn_implementation = "sdpa"  # its eager path cannot take padding
        model = transformers.DiffusionGemmaForBlockDiffusion(config).float()
        randomise(model, seed, odd_experts=shape.odd_experts)
        return cls(model.eval().requires_grad_(False))

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype = torch.float32) -> "Oracle":
        model = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        )
        return cls(model.eval().requires_grad_(False))

    def new_cache(self) -> Any:
        # Its static cache is wrong on sliding layers (trap 26).
        return transformers.DynamicCache(config=self.config.get_text_config(decoder=True))

    def encode(self, ids: Tensor, mask: Tensor, cache: Any, **media: Tensor) -> Tensor:
        """mask: over all columns, cached ones too."""
        encoder = self.model.model.encoder
        positions = torch.arange(mask.shape[1] - ids.shape[1], mask.shape[1])[None]
        # Built beforehand: a plain call drops the mask that lets image tokens see each other.
        masks = encoder.create_masks_for_generate(
            config=self.config,
            inputs_embeds=torch.empty(*ids.shape, 0),
            attention_mask=mask,
            past_key_values=cache,
            position_ids=positions,
            mm_token_type_ids=media.get("mm_token_type_ids"),
        )
        return encoder(
            input_ids=ids,
            attention_mask=masks,
            past_key_values=cache,
            position_ids=positions,
            **media,
        ).last_hidden_state

    def denoise(
        self, canvas: Tensor, mask: Tensor, cache: Any, previous: Tensor | None = None
    ) -> Tensor:
        start, length = mask.shape[1], canvas.shape[1]
        masks = self.model.model.decoder.create_diffusion_decoder_attention_mask(
            config=self.config,
            inputs_embeds=torch.empty(*canvas.shape, 0),
            past_key_values=cache,
            decoder_attention_mask=F.pad(mask, (0, length), value=True),
        )
        return self.model(
            decoder_input_ids=canvas,
            past_key_values=cache,
            decoder_attention_mask=masks,
            decoder_position_ids=torch.arange(start, start + length)[None],
            self_conditioning_logits=previous,
        ).logits


@torch.no_grad()
def randomise(model: Any, seed: int, *, odd_experts: bool) -> None:
    """Every tensor random, also those that a fresh model sets to 0 or 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, mean: float, deviation: float) -> None:
        tensor.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))

    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            draw(tensor, 0.6, 0.2)
        elif name.endswith(POST_NORMS):
            draw(tensor, 0.4, 0.12)  # six layers of full gain would amplify rounding itself
        elif "norm" in name or name.endswith(("layer_scalar", "std_scale")):
            draw(tensor, 0.8, 0.2)
        elif name.endswith("router.scale"):
            draw(tensor, 3.0, 1.0)
        elif name.endswith("per_expert_scale"):
            draw(tensor, 1.0, 0.4)
            if odd_experts:  # one that adds nothing, one that subtracts
                tensor[0], tensor[1] = 0.0, -1.5
        elif name.endswith("position_embedding_table"):
            draw(tensor, 0.0, 0.5)
        elif name.endswith("embed_tokens.weight"):
            draw(tensor, 0.0, 0.2)
        elif name.endswith("std_bias") or tensor.ndim > 1:
            draw(tensor, 0.0, 0.12)
        # What is left is computed from the config: rotary frequencies, the embedding's scale.


class Pair(NamedTuple):
    shape: Shape
    theirs: Oracle
    ours: Network
    folder: Path


@pytest.fixture(scope="module", params=[1, 2, 4, 5, 6])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same weights in both: they save, we load."""
    shape = draw_shape(request.param)
    theirs = Oracle.random(shape, request.param)
    folder = tmp_path_factory.mktemp("theirs")
    theirs.model.save_pretrained(folder)
    ours = load_network(folder, dtype=torch.float32).eval().requires_grad_(False)
    return Pair(shape, theirs, ours, folder)


def close(ours: Tensor, theirs: Tensor, *, real: Tensor | None = None) -> None:
    assert ours.shape == theirs.shape
    assert ours.isfinite().all()
    difference = (ours - theirs).abs()
    if real is not None:
        difference = difference * real
    assert difference.max() <= TOLERANCE


def close_caches(ours: KVCache, theirs: Any, mask: Tensor) -> None:
    for index, layer in enumerate(theirs.layers):
        keys, values = ours.layer(index)
        real = mask[:, None, -keys.shape[2] :, None]
        close(keys, layer.keys, real=real)
        close(values, layer.values, real=real)


def compare(
    pair: Pair, ids: Tensor, mask: Tensor, *, images: Tensor | None = None, **media: Tensor
) -> None:
    """Prompt, two steps of a canvas, a committed canvas, a step of the next one."""
    generator = torch.Generator().manual_seed(5)
    shape, (batch, canvas) = (len(ids), pair.shape.canvas), (len(ids), pair.shape.canvas)

    def draw(below: int) -> Tensor:
        return torch.randint(below, shape, generator=generator)

    cache, their_cache = pair.ours.new_cache(batch_size=batch), pair.theirs.new_cache()
    hidden = pair.ours.encode(ids, cache=cache, mask=mask, images=images)
    close(hidden, pair.theirs.encode(ids, mask, their_cache, **media), real=mask[..., None])
    close_caches(cache, their_cache, mask)

    tokens = draw(pair.shape.text["vocab_size"])
    logits = pair.theirs.denoise(tokens, mask, their_cache)
    close(pair.ours.denoise(tokens, cache=cache), logits)
    previous = logits / 0.6
    soft = pair.ours.soft_embed(previous)
    tokens = draw(pair.shape.text["vocab_size"])
    logits = pair.theirs.denoise(tokens, mask, their_cache, previous)
    close(pair.ours.denoise(tokens, cache=cache, soft=soft), logits)

    block, mask = draw(ORDINARY), F.pad(mask, (0, canvas), value=True)
    hidden = pair.theirs.encode(block, mask, their_cache)
    close(pair.ours.encode(block, cache=cache), hidden)
    close_caches(cache, their_cache, mask)
    logits = pair.theirs.denoise(tokens, mask, their_cache, previous)
    close(pair.ours.denoise(tokens, cache=cache, soft=soft), logits)


def prompt(*lengths: int) -> tuple[Tensor, Tensor]:
    """Random ids, padded on the left, and the mask of the real ones."""
    width = max(lengths)
    generator = torch.Generator().manual_seed(width)
    ids = torch.randint(3, ORDINARY, (len(lengths), width), generator=generator)
    mask = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    return ids * mask, mask


@pytest.mark.parametrize("over", [-1, 0, 1, 9])
def test_prompts_around_the_window(pair: Pair, over: int) -> None:
    compare(pair, *prompt(pair.shape.window + over))


def test_a_prompt_of_one_token(pair: Pair) -> None:
    compare(pair, *prompt(1))


@pytest.mark.parametrize("over", [-1, 9])
def test_padded_batch(pair: Pair, over: int) -> None:
    longest = pair.shape.window + over
    compare(pair, *prompt(longest, longest // 2))


def test_images(pair: Pair) -> None:
    """Two images, padded to one size for the other implementation; the second can be longer than
    the window. Tower, projector, and a prompt that holds them."""
    pack = [picture(pair.shape.vision, rows, columns) for rows, columns in ((1, 2), (3, 4))]
    most = max(len(patches) for patches, _ in pack)
    features = pair.theirs.model.model.encoder.get_image_features(
        torch.stack([F.pad(patches, (0, 0, 0, most - len(patches))) for patches, _ in pack]),
        torch.stack([F.pad(where, (0, 0, 0, most - len(where)), value=-1) for _, where in pack]),
        return_dict=True,
    )
    assert pair.ours.vision is not None
    close(torch.cat([pair.ours.vision(*image) for image in pack]), features.last_hidden_state)
    images = torch.cat([pair.ours.embed_image(*image) for image in pack])
    close(images, features.pooler_output)

    text = prompt(9)[0][0].tolist()
    ids = torch.tensor(
        [
            [
                *text[:3],
                BEGIN,
                *[IMAGE] * 2,
                END,
                *text[3:5],
                BEGIN,
                *[IMAGE] * 12,
                END,
                *text[5:],
            ]
        ]
    )
    compare(
        pair,
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        images=images,
        pixel_values=torch.stack([F.pad(p, (0, 0, 0, most - len(p))) for p, _ in pack]),
        image_position_ids=torch.stack(
            [F.pad(where, (0, 0, 0, most - len(where)), value=-1) for _, where in pack]
        ),
        mm_token_type_ids=(ids == IMAGE).long(),
    )


def picture(vision: dict[str, Any], rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """A random image of rows x columns soft tokens: patches (P, 3 p p), places (P, 2) as (x, y)."""
    kernel = vision["pooling_kernel_size"]
    y, x = torch.meshgrid(
        torch.arange(rows * kernel), torch.arange(columns * kernel), indexing="ij"
    )
    where = torch.stack((x.flatten(), y.flatten()), dim=1)
    generator = torch.Generator().manual_seed(rows)
    return torch.rand(len(where), 3 * vision["patch_size"] ** 2, generator=generator), where


def test_bfloat16(pair: Pair) -> None:
    """No further from float32 than twice the other implementation in the same dtype."""
    ids, mask = prompt(pair.shape.window + 9)
    canvas = prompt(pair.shape.canvas)[0]
    small = load_network(pair.folder, dtype=torch.bfloat16).requires_grad_(False)
    exact = load_network(pair.folder, dtype=torch.bfloat16).float().requires_grad_(False)
    theirs = Oracle.load(pair.folder, dtype=torch.bfloat16)

    logits = []
    for network in (exact, small):
        cache = network.new_cache(batch_size=1)
        network.encode(ids, cache=cache)
        logits.append(network.denoise(canvas, cache=cache))
        soft = network.soft_embed(logits[0])
        logits.append(network.denoise(canvas, cache=cache, soft=soft))
    their_cache = theirs.new_cache()
    theirs.encode(ids, mask, their_cache)
    logits.append(theirs.denoise(canvas, mask, their_cache))
    logits.append(theirs.denoise(canvas, mask, their_cache, logits[0].bfloat16()))
    for step in (0, 1):
        ours, other = logits[2 + step] - logits[step], logits[4 + step] - logits[step]
        assert ours.norm() <= 2 * other.norm()


def test_our_files_in_their_hands(pair: Pair, tmp_path: Path) -> None:
    """We save, they load, also from shards: the same bits, and so the same logits."""
    save_checkpoint(pair.ours, tmp_path / "ours", generation=None, max_shard_bytes=50_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    back = Oracle.load(tmp_path / "ours")
    loaded, first = back.model.state_dict(), pair.theirs.model.state_dict()
    assert loaded.keys() == first.keys()
    assert all(torch.equal(loaded[name], first[name]) for name in loaded)

    ids, mask = prompt(pair.shape.window + 3)
    canvas = prompt(pair.shape.canvas)[0]
    logits = []
    for oracle in (pair.theirs, back):
        cache = oracle.new_cache()
        oracle.encode(ids, mask, cache)
        logits.append(oracle.denoise(canvas, mask, cache))
    # Not to the last bit: a matrix product's order of sums depends on where its memory begins.
    close(*logits)


@pytest.mark.parametrize(
    "rope",
    [
        dict(rope_type="default"),
        dict(rope_type="proportional", partial_rotary_factor=0.5),
        dict(rope_type="proportional", partial_rotary_factor=0.3, factor=8.0),
        dict(rope_type="proportional", factor=2.0),
    ],
    ids=str,
)
def test_frequencies(rope: dict[str, Any]) -> None:
    """As they are read, and from what is written of them."""
    from transformers.models.diffusion_gemma import modeling_diffusion_gemma as theirs

    kind = "sliding_attention"
    for told in (raw := rope | {"rope_theta": 1e4}, RopeConfig.parse(raw, "").to_json()):
        config = transformers.DiffusionGemmaTextConfig(
            head_dim=48, layer_types=[kind, "full_attention"], num_hidden_layers=2,
            rope_parameters={kind: dict(told), "full_attention": dict(raw)},
        )  # fmt: skip
        expected = theirs.DiffusionGemmaTextRotaryEmbedding(config).sliding_attention_inv_freq
        ours = inverse_frequencies(RopeConfig.parse(told, ""), 48, torch.device("cpu"))
        assert torch.equal(ours, expected)
