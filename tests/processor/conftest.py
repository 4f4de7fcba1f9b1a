"""A small tokenizer and a checkpoint folder with it, built once."""

import json
from pathlib import Path

import pytest
from hypothesis import settings

import gesso.processor
from gesso.processor import Processor, Tokenizer
from recipes.tiny_tokenizer import build_tokenizer, tokenizer_config

# A busy machine must not fail a law for being slow.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

PARAGRAPH = """\
The painter puts a white ground on the canvas before the first stroke. Then the colours come:
42 shades of grey, a little ochre, and no black at all. {"name":"Ada","age":36,"city":"London"}
is what the form says; {"name":"Grace","age":85,"city":"Arlington"} is what another one says.
The turn of the model, the call of a tool, the thought in a channel < and > and | and < again |.
"""
TEMPLATE = Path(gesso.processor.__file__).parent.parent / "assets" / "tiny" / "chat_template.jinja"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    build_tokenizer([PARAGRAPH] * 2, vocab_size=512).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config()))
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text())
    return folder


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture(scope="session")
def processor(folder: Path) -> Processor:
    return Processor.load(folder)
