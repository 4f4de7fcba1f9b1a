"""What `tiny` is before it has learned anything: its first stages' shape, and its vocabulary."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

from gesso.config import ModelConfig, RopeConfig, TextConfig, VisionConfig
from gesso.tasks import get_task
from recipes.tiny_tokenizer import build_tokenizer, save_tokenizer

VOCAB_SIZE = 2560
PROCESSOR = Path(str(resources.files("gesso") / "assets" / "tiny"))

_CORPUS_EXAMPLES = 40_000
# The vocabulary knows Python too: code infilling is to come, and its words must be there by then.
_CORPUS_MODULES = 60


def model_config() -> ModelConfig:
    sliding, full = "sliding_attention", "full_attention"
    image, boi, eoi, bos = token_ids("<|image|>", "<|image>", "<image|>", "<bos>")
    return ModelConfig(
        text=TextConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=192,
            intermediate_size=384,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            num_global_key_value_heads=2,
            global_head_dim=64,
            num_experts=8,
            top_k_experts=2,
            moe_intermediate_size=128,
            layer_types=(sliding, sliding, full, sliding, full),
            sliding_window=128,
            max_position_embeddings=8192,
            sliding_rope=RopeConfig(theta=1e4),
            full_rope=RopeConfig(theta=1e6, partial=0.25),
            bos_token_id=bos,
        ),
        # Shaped but not trained: no skill of this checkpoint looks at images yet.
        vision=VisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_layers=2,
            num_attention_heads=2,
            head_dim=32,
            patch_size=16,
            pooling_kernel_size=3,
            position_embedding_size=256,
            rope_theta=100.0,
            standardize=True,
        ),
        canvas_length=64,
        image_token_id=image,
        boi_token_id=boi,
        eoi_token_id=eoi,
        eos_token_ids=token_ids("<eos>", "<turn|>"),
    )


def write_tokenizer(folder: Path, tasks: Iterable[str]) -> None:
    """Train the vocabulary on these tasks' own texts and some Python, and write it."""
    tokenizer = build_tokenizer(_corpus(tasks), vocab_size=VOCAB_SIZE)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    save_tokenizer(tokenizer, folder)


def _corpus(tasks: Iterable[str]) -> Iterator[str]:
    # The template's own words, so that its turns cost one token a word.
    yield from ["user model system thought"] * 2000
    for name in tasks:
        examples = get_task(name).examples(split="train", seed=0)
        for example in itertools.islice(examples, _CORPUS_EXAMPLES):
            yield example.prompt
            yield example.completion
    modules = sorted(Path(shutil.__file__).parent.glob("*.py"))
    for module in modules[:_CORPUS_MODULES]:
        yield module.read_text(encoding="utf-8", errors="ignore")


def token_ids(*tokens: str) -> tuple[int, ...]:
    vocabulary = json.loads((PROCESSOR / "tokenizer.json").read_text(encoding="utf-8"))
    known = {entry["content"]: entry["id"] for entry in vocabulary["added_tokens"]}
    return tuple(known[token] for token in tokens)
