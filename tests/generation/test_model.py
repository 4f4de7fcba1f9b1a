"""gesso.load on a checkpoint folder, and generate as the fold of stream."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import gesso
from gesso.checkpoint import save_checkpoint
from gesso.generation.events import Commit, Draft, End
from gesso.generation.model import DiffusionGemma

TINY = Path(gesso.__file__).parent / "assets" / "tiny"


@pytest.fixture
def folder(dg: DiffusionGemma, tmp_path: Path) -> Path:
    save_checkpoint(dg.network, tmp_path / "random", generation=dg.generation, processor=TINY)
    return tmp_path / "random"


def test_save_gives_what_was_loaded(dg: DiffusionGemma, folder: Path, tmp_path: Path) -> None:
    """Byte by byte, but for what has changed since; and in the network's dtype."""
    loaded = gesso.load(folder, device="cpu")
    loaded.save(tmp_path / "again")
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in (tmp_path / "again").iterdir()}
    assert all((folder / n).read_bytes() == (tmp_path / "again" / n).read_bytes() for n in names)
    half = gesso.load(folder, device="cpu", dtype="bfloat16")
    half.network.embed.weight.data.fill_(0.5)
    half.save(str(tmp_path / "half"), max_shard_bytes=10**5)
    assert len(list((tmp_path / "half").glob("*.safetensors"))) > 1
    network = gesso.load(tmp_path / "half", device="cpu", dtype="bfloat16").network
    assert network.embed.weight.eq(0.5).all()
    with pytest.raises(ValueError, match="no folder was loaded, whose tokenizer is saved"):
        dg.save(tmp_path / "none")
    with pytest.raises(ValueError, match="in few bits is not saved"):
        gesso.load(folder, device="cpu", quantize="fp8").save(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_load_gives_what_was_saved(dg: DiffusionGemma, folder: Path) -> None:
    for source in (folder, str(folder)):
        loaded = gesso.load(source, device="cpu")
        assert isinstance(loaded, gesso.DiffusionGemma)
        assert loaded.generation == dg.generation
        assert loaded.network.dtype == torch.float32
        assert not loaded.network.training
        saved = dg.network.state_dict()
        assert all(torch.equal(saved[k], v) for k, v in loaded.network.state_dict().items())
    keys = dict(seed=3, max_new_tokens=8)
    assert loaded.generate("hello", **keys).token_ids == dg.generate("hello", **keys).token_ids


def test_dtype(folder: Path) -> None:
    assert gesso.load(folder, dtype="bfloat16").network.dtype == torch.bfloat16
    result = gesso.load(folder, dtype="bfloat16").generate("hello", max_new_tokens=6)
    assert len(result.token_ids) <= 6
    with pytest.raises(ValueError, match="dtype: got 'int8'; expected one of auto, float32, bf"):
        gesso.load(folder, dtype="int8")
    with pytest.raises(ValueError, match="device: got 'abacus'"):
        gesso.load(folder, device="abacus")
    with pytest.raises(ValueError, match="config"):
        gesso.load(folder.parent)


@pytest.mark.parametrize(
    ("spoilt", "options", "message"),
    [
        ("", dict(adapter="typo"), r"typo: no adapter_config\.json"),
        ("", dict(compile="yes"), "compile: got 'yes'; expected True, False or 'auto'"),
        ("", dict(compile=1), "compile: got 1; expected True, False or 'auto'"),
        ("", dict(dtype="float16", quantize="fp8"), "dtype: got float16, .* give bfloat16 or"),
        ("", dict(dtype="float16", compile=True), "float16, and compile is for float32 and bfl"),
        ("generation_config.json", {}, r"generation_config\.json: not valid JSON"),
        ("tokenizer.json", {}, r"cannot read '.*/tokenizer\.json'"),
        ("tokenizer_config.json", {}, r"tokenizer_config\.json: not valid JSON"),
    ],
)
def test_mistakes_are_told_before_the_weights_are_read(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoilt: str,
    options: dict[str, Any],
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr("gesso.generation.model.load_network", fail)
    if spoilt:
        (folder / spoilt).write_text("{")
    with pytest.raises(ValueError, match=message):
        gesso.load(folder, device="cpu", **options)


def test_a_temperature_that_float16_has_no_room_for(folder: Path) -> None:
    """It would make the soft embedding NaN, and the answer nothing."""
    cold = dict(temperature_start=1e-4, temperature_end=1e-4, max_new_tokens=6)
    narrow = gesso.load(folder, device="cpu", dtype="float16")
    for ask in (narrow.generate, narrow.stream, lambda _, **keys: narrow.generate_ids([2], **keys)):
        with pytest.raises(
            ValueError, match=r"temperature: got 0\.0001 at one .* at least 0\.0004"
        ):
            ask("hello", **cold)
    assert narrow.generate("hello", **cold | dict(temperature_start=1.0)).token_ids
    wide = gesso.load(folder, device="cpu", dtype="bfloat16")
    assert wide.generate("hello", **cold).token_ids


def test_keys_and_values_in_fp8(folder: Path) -> None:
    model = gesso.load(folder, kv_cache_dtype="fp8")
    assert model.network.new_cache(batch_size=1)._dtype == torch.float8_e4m3fn
    assert gesso.load(folder).network.new_cache(batch_size=1)._dtype is None
    with pytest.raises(ValueError, match="kv_cache_dtype: got 'fp7'; expected one of auto, fp8"):
        gesso.load(folder, kv_cache_dtype="fp7")


def test_generate_is_the_fold_of_stream(dg: DiffusionGemma) -> None:
    keys = dict(seed=11, max_new_tokens=12, ignore_stop_tokens=True)
    result = dg.generate("hello", **keys)
    events = list(dg.stream("hello", **keys))
    end = events[-1]
    assert isinstance(end, End)
    commits = [event for event in events if isinstance(event, Commit)]
    assert "".join(c.text for c in commits) + end.text == result.text == end.result.text
    assert tuple(i for c in commits for i in c.token_ids) == result.token_ids
    assert end.result.stats.steps == result.stats.steps == tuple(c.steps for c in commits)
    assert sum(isinstance(event, Draft) for event in events) == result.stats.forwards


@pytest.mark.parametrize("mode", ["diffusion", "autoregressive"])
def test_a_program_may_end_in_the_middle_of_an_answer(folder: Path, mode: str) -> None:
    """torch's own decorator left a traceback behind."""
    program = (
        f"import gesso; model = gesso.load({str(folder)!r}, device='cpu'); "
        f"events = model.stream('hello', mode={mode!r}); next(events)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_string_is_one_user_turn(dg: DiffusionGemma) -> None:
    keys = dict(seed=1, max_new_tokens=6)
    as_messages = dg.generate([{"role": "user", "content": "hello"}], **keys)
    as_string = dg.generate("hello", **keys)
    assert as_string.token_ids == as_messages.token_ids
    assert as_string.stats.prompt_tokens == as_messages.stats.prompt_tokens
    ids = dg.processor.encode_prompt("hello")
    assert dg.generate_ids(ids, **keys).token_ids == as_string.token_ids
    raw = dg.generate("hello", raw=True, **keys)
    assert raw.stats.prompt_tokens == len(dg.processor.encode_prompt("hello", raw=True))
    assert raw.stats.prompt_tokens < as_string.stats.prompt_tokens


def test_exactly_as_many_tokens_as_asked_for(dg: DiffusionGemma) -> None:
    result = dg.generate("hello", max_new_tokens=7, ignore_stop_tokens=True)
    assert result.stats.new_tokens == len(result.token_ids) == 7
    assert result.stats.tokens_per_second > 0
    assert result.stats.tokens_per_forward == 7 / result.stats.forwards
