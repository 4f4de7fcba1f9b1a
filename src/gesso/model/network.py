"""The whole network: one stack of layers, two modes.

`encode` is causal and appends to the cache; `denoise` lets every canvas token see the whole
canvas and the cache, and only reads (model-spec §3 to §5).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gesso.cache import CacheView, CacheWriter, KVCache, cache_bytes, widened_bytes
from gesso.config import ModelConfig
from gesso.kernels.attention import attention
from gesso.kernels.precision import at_least_float32
from gesso.kernels.rope import Rotation, inverse_frequencies, rotation
from gesso.model.attention import Attend, Attended
from gesso.model.compiled import CompiledPasses
from gesso.model.layer import Layer
from gesso.model.masks import Look, causal_look, image_blocks, look_from_canvas
from gesso.model.norm import RMSNorm
from gesso.model.runner import Runner
from gesso.model.self_conditioning import SelfConditioning
from gesso.model.vision import Projector, VisionTower


class Network(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        text = config.text
        self.config = config
        # Whether a pass keeps only the layers' inputs for its gradient and computes the rest again.
        self.checkpoint_activations = False
        # What caches keep keys and values in; None: the dtype of the weights.
        self.kv_cache_dtype: torch.dtype | None = None
        # What runs passes without gradients in the modules' place.
        self.compiled: CompiledPasses | None = None
        # Empty, for what nn.Embedding draws would be drawn again, and on the meta device it imports
        # a compiler, which takes longer than to load small weights.
        table = torch.empty(text.vocab_size, text.hidden_size)
        self.embed = nn.Embedding.from_pretrained(table, freeze=False)
        self.layers = nn.ModuleList(Layer(text, i) for i in range(text.num_layers))
        self.norm = RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.self_conditioning = SelfConditioning(text)
        self.vision = VisionTower(config.vision) if config.vision else None
        self.projector = Projector(config.vision, text) if config.vision else None

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    def new_cache(self, *, batch_size: int, trim: bool = True) -> KVCache:
        return KVCache(
            self.config.text, batch_size=batch_size, trim=trim, dtype=self.kv_cache_dtype
        )

    def cache_bytes(self, columns: int) -> int:
        """Of one row's keys and values of so many columns, trimmed."""
        return cache_bytes(self.config.text, columns, self.kv_cache_dtype or self.dtype)

    def widened_bytes(self, columns: int) -> int:
        """What a pass over a row holds of so many columns beside them, a layer at a time."""
        if self.kv_cache_dtype is None:
            return 0
        return widened_bytes(self.config.text, columns, self.dtype)

    def encode(
        self,
        ids: Tensor,
        *,
        cache: KVCache,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        images: Tensor | None = None,
        by: Runner | None = None,
    ) -> Tensor:
        """Run new tokens causally and append them to the cache.

        ids (B, n) int64. mask (B, n) bool, False at padding. positions (B, n): where each token
        stands; by default its column, counted from the cache's length, also in padded rows, as
        the reference does. images (N, M): soft tokens for the places that hold the image token's
        id, in order. by: what computes it in the modules' place. Returns hidden states after the
        final norm, (B, n, M).
        """
        columns = ids.shape[1]
        if positions is None:
            positions = self._columns(cache, columns)
        plain = mask is None and images is None and cache.is_wide and by is None
        if self.compiled is not None and plain and not torch.is_grad_enabled():
            return self.compiled.encode(ids, cache=cache, positions=positions)
        x, is_image = self._embed_prompt(ids, images)
        writer = CacheWriter(cache, columns=columns, mask=mask)
        blocks = None if is_image is None else image_blocks(is_image)
        looks: dict[bool, Look] = {}

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Attended:
            full = self.config.text.is_full(layer)
            kept = cache.kept(layer)
            if full not in looks:
                padding = writer.mask
                looks[full] = causal_look(
                    query,
                    columns=columns,
                    kept=kept,
                    blocks=blocks,
                    window=None if full else self.config.text.sliding_window,
                    padding=None if padding is None else padding[:, -(kept + columns) :],
                )
            keys, values = writer.join(layer, key, value)
            return Attended(looks[full](query, keys, values), keys, values)

        run = (by or self).stack
        x = run(x, positions, attend, scalar=lambda layer: layer.encode_scalar, keep=writer.keep)
        writer.close()
        return x

    def commit(
        self, ids: Tensor, canvas: Tensor, *, cache: KVCache, by: Runner | None = None
    ) -> Tensor:
        """`encode` of a finished canvas in one pass with the first look at the next one.

        ids (1, n) int64 are appended to the cache; canvas (1, L) int64 stands behind them. Returns
        the canvas's hidden states after the final norm, (1, L, M). A layer's weights are read
        once for both. by as in `encode`.
        """
        count, window = ids.shape[1], self.config.text.sliding_window
        writer = CacheWriter(cache, columns=count, mask=None)
        looks: dict[bool, Look] = {}

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Attended:
            full = self.config.text.is_full(layer)
            finished, begun = query[:, :, :count], query[:, :, count:]
            if full not in looks:
                looks[full] = causal_look(
                    finished,
                    columns=count,
                    kept=cache.kept(layer),
                    window=None if full else window,
                    padding=None,
                    blocks=None,
                )
            keys, values = writer.join(layer, key[:, :, :count], value[:, :, :count])
            # The window is anchored at the canvas's start (trap 16).
            seen = slice(0 if full else max(0, keys.shape[2] - (window - 1)), None)
            outs = (
                looks[full](finished, keys, values),
                look_from_canvas(
                    begun,
                    keys[:, :, seen],
                    values[:, :, seen],
                    key[:, :, count:],
                    value[:, :, count:],
                ),
            )
            return Attended(torch.cat(outs, 1), keys, values)

        def scalar(layer: Layer) -> Tensor:
            both = (layer.encode_scalar.expand(count), layer.denoise_scalar.expand(length))
            return torch.cat(both)[:, None]

        runner = by or self
        begun = runner.condition(self.embed_tokens(canvas), None)
        x, length = torch.cat((self.embed_tokens(ids), begun), 1), canvas.shape[1]
        positions = self._columns(cache, count + length)
        x = runner.stack(x, positions, attend, scalar=scalar, keep=writer.keep)
        writer.close()
        return x[:, count:]

    def denoise(
        self,
        canvas: Tensor,
        *,
        cache: KVCache,
        soft: Tensor | None = None,
        positions: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """One pass over a canvas; the cache is only read.

        canvas (B, L) int64. soft (B, L, M): what `soft_embed` made of the last step's logits;
        None at a canvas's first step. positions (B, L), by default the columns after the cache's
        last. starts (B,): rows whose canvas begins earlier see only the columns before it (for
        training; needs an untrimmed cache). Returns softcapped logits (B, L, V) in float32.
        """
        return self.head(
            self.denoise_hidden(canvas, cache=cache, soft=soft, positions=positions, starts=starts)
        )

    def denoise_hidden(
        self,
        canvas: Tensor,
        *,
        cache: KVCache,
        soft: Tensor | None = None,
        positions: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """`denoise` without the head: hidden states after the final norm, (B, L, M)."""
        length = canvas.shape[1]
        if positions is None:
            positions = self._columns(cache, length)
        view = CacheView(cache, starts=starts)
        masks: dict[bool, Tensor | None] = {}

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Attended:
            full = self.config.text.is_full(layer)
            if full not in masks:
                seen = view.mask(layer)
                masks[full] = (
                    None if seen is None else F.pad(seen, (0, length), value=True)[:, None, None]
                )
            old_keys, old_values = view.layer(layer)
            keys, values = torch.cat((old_keys, key), 2), torch.cat((old_values, value), 2)
            return Attended(attention(query, keys, values, mask=masks[full]), keys, values)

        x = self.condition(self.embed_tokens(canvas), soft)
        return self.stack(x, positions, attend, scalar=lambda layer: layer.denoise_scalar)

    def head(self, hidden: Tensor) -> Tensor:
        """(..., M) -> softcapped logits (..., V) float32; the product in the model's dtype."""
        cap = self.config.text.final_logit_softcapping
        logits = at_least_float32(F.linear(hidden, self.embed.weight))
        bent = logits.div_(cap).tanh_()
        # The gradient of tanh is made from its result, which then has to stay as it is.
        return bent * cap if bent.requires_grad else bent.mul_(cap)

    def soft_embed(self, logits: Tensor) -> Tensor:
        """The embedding that tempered logits (..., V) stand for, (..., M).

        Rounded to the embedding's dtype before the softmax, as the reference stores them (trap 12).
        """
        probabilities = at_least_float32(logits.to(self.dtype)).softmax(-1).to(self.dtype)
        return (probabilities @ self.embed.weight) * self.embed_scale

    def embed_image(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Pixels of one image (P, 3 p p) in [0, 1], patch positions (P, 2) as (x, y) -> (n, M)."""
        if self.vision is None or self.projector is None:
            raise ValueError("this checkpoint has no image encoder; give it text only")
        return self.projector(self.vision(patches, positions))

    @property
    def embed_scale(self) -> Tensor:
        # sqrt(M) rounded to the weights' dtype: 53.0 in bf16 for M = 2816, not 53.066 (trap 14).
        return torch.tensor(self.config.text.hidden_size**0.5, dtype=self.dtype)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., M), scaled."""
        return self.embed(ids) * self.embed_scale

    def _embed_prompt(self, ids: Tensor, images: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = self.embed_tokens(ids)
        if images is None:
            return x, None
        if self.config.image_token_id is None:
            raise ValueError("this checkpoint names no image token; give it text only")
        is_image = ids == self.config.image_token_id
        if int(is_image.sum()) != len(images):
            raise ValueError(
                f"the prompt has {int(is_image.sum())} image places and {len(images)} soft tokens "
                "were given; expand each image placeholder to as many as the image has"
            )
        return x.masked_scatter(is_image[..., None], images.to(x.dtype)), is_image

    def _columns(self, cache: KVCache, count: int) -> Tensor:
        return torch.arange(cache.length, cache.length + count, device=self.device)[None]

    def condition(self, x: Tensor, soft: Tensor | None) -> Tensor:
        """As `Runner` says."""
        conditioned: Tensor = self.self_conditioning(x, soft)
        return conditioned

    def stack(
        self,
        x: Tensor,
        positions: Tensor,
        attend: Attend,
        *,
        scalar: Callable[[Layer], Tensor],
        keep: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """As `Runner` says."""
        turns = self.rotations(positions, x.dtype)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            inputs = (x, turns[self.config.text.is_full(index)], attend, scalar(layer))
            if self.checkpoint_activations and torch.is_grad_enabled():
                x, keys, values = checkpoint(
                    layer, *inputs, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x, keys, values = layer(*inputs)
            if keep is not None:
                keep(index, keys, values)
        return self.norm(x)

    def rotations(self, positions: Tensor, dtype: torch.dtype) -> dict[bool, Rotation]:
        """positions (B, n) -> angles on full layers (True) and on sliding ones."""
        text = self.config.text
        kinds = (
            (False, text.sliding_rope, text.head_dim),
            (True, text.full_rope, text.global_head_dim),
        )
        return {
            full: rotation(positions, inverse_frequencies(rope, dim, positions.device), dtype)
            for full, rope, dim in kinds
        }


def parameter_count(network: Network) -> int:
    """Trainable elements: layer scalars and standardisation statistics are not among them."""
    return sum(p.numel() for p in network.parameters())
