"""`gesso generate`: the same answer as the library's, in three shapes."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import gesso
from gesso.cli.generate import print_stream
from gesso.cli.lines import answers, on_one_line
from gesso.generation.events import Commit, End
from gesso.generation.model import DiffusionGemma
from gesso.processor import Processor
from tests.cli.conftest import Run
from tests.terminal.conftest import TINY, Terminal


def test_piped_it_prints_the_text_alone(run: Run, checkpoint: Path) -> None:
    code, out, err = run("generate", "3 boxes", "--model", checkpoint, "--seed", 4)
    assert (code, err) == (0, "")
    assert out == gesso.load(checkpoint).generate("3 boxes", seed=4).text + "\n"


def test_json_holds_the_whole_result(run: Run, checkpoint: Path) -> None:
    code, out, err = run("generate", "3 boxes", "--model", checkpoint, "--seed", 4, "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    result = gesso.load(checkpoint).generate("3 boxes", seed=4)
    assert said["text"] == result.text
    assert said["token_ids"] == list(result.token_ids)
    assert (said["reasoning"], said["tool_calls"]) == (result.reasoning, [])
    assert (said["finish_reason"], said["seed"]) == ("length", 4)
    assert said["model"] == str(checkpoint)
    stats = said["stats"]
    assert stats["steps"] == list(result.stats.steps)
    assert stats["tokens_per_forward"] == result.stats.tokens_per_forward
    assert stats["tokens_per_second"] > 0


def test_options_reach_the_model(run: Run, checkpoint: Path) -> None:
    words = (
        "--max-new-tokens 7 --max-denoising-steps 2 --no-adaptive-stop --entropy-bound 9 "
        "--temperature-start 0.9 --temperature-end 0.5 --stability 2 --confidence 0.1 "
        "--time-budget 60 --device cpu --dtype float32 --threads 1"
    )
    _, out, _ = run("generate", "3 boxes", "--model", checkpoint, "--json", *words.split())
    said = json.loads(out)
    assert len(said["token_ids"]) == 7
    assert said["stats"]["steps"] == [2, 2]
    wanted = gesso.load(checkpoint).generate(
        "3 boxes",
        max_new_tokens=7,
        max_denoising_steps=2,
        adaptive_stop=False,
        entropy_bound=9.0,
        temperature_start=0.9,
        temperature_end=0.5,
    )
    assert said["text"] == wanted.text


def test_a_stop_string_ends_the_answer(run: Run, checkpoint: Path) -> None:
    whole = run("generate", "3 boxes", "--model", checkpoint).out
    stop = whole[4:6]
    words = ("--stop", "no such text", "--stop", stop)
    cut = run("generate", "3 boxes", "--model", checkpoint, *words)
    assert cut.out == whole[: whole.index(stop)] + "\n"


def test_autoregressive(run: Run, checkpoint: Path) -> None:
    words = ("generate", "3 boxes", "--model", checkpoint, "--mode", "autoregressive")
    wanted = gesso.load(checkpoint).generate("3 boxes", mode="autoregressive").text
    assert run(*words).out == wanted + "\n"


def test_verified(run: Run, checkpoint: Path) -> None:
    words = ("generate", "3 boxes", "--model", checkpoint, "--verify")
    wanted = gesso.load(checkpoint).generate("3 boxes", mode="autoregressive").text
    assert run(*words).out == wanted + "\n"
    assert run(*words[:-1]).out != wanted + "\n"


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        (["one"], "two\nthree\n", "one\ntwo\nthree"),
        (["one"], "", "one"),
        ([], "two\n", "two"),
    ],
)
def test_stdin_joins_the_prompt(
    run: Run, checkpoint: Path, words: list[str], stdin: str, prompt: str
) -> None:
    _, out, _ = run("generate", *words, "--model", checkpoint, "--json", stdin=stdin)
    said = json.loads(out)
    assert said["stats"]["prompt_tokens"] == len(Processor.load(TINY).encode_prompt(prompt))
    assert said["text"] == gesso.load(checkpoint).generate(prompt).text


def test_system_and_raw(run: Run, checkpoint: Path) -> None:
    def prompt_tokens(*words: str) -> int:
        _, out, _ = run("generate", "3 boxes", "--model", checkpoint, "--json", *words)
        return int(json.loads(out)["stats"]["prompt_tokens"])

    processor = Processor.load(TINY)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 boxes"}]
    assert prompt_tokens("--system", "Be brief.") == len(processor.encode_prompt(messages))
    assert prompt_tokens("--raw") == len(processor.encode_prompt("3 boxes", raw=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "-1"], "seed"),
        (["--max-new-tokens", "0"], "max_new_tokens"),
        (["--max-new-tokens", "100000"], "context"),
        (["--stop", ""], "stop"),
        (["--threads", "0"], "--threads: got '0'; expected a whole number from 1 to 1024"),
        (["--threads", "100000"], "--threads: got '100000'"),
        (["--watch", "-1"], "--watch"),
        (["--watch", "inf"], "--watch"),
        (["--temperature-start", "1e-300"], "temperature_start: got 1e-300; expected a finite"),
        (["--device", "abacus"], "abacus"),
        (["--device", "meta"], "meta"),
        (["--dtype", "float3"], "float3"),
        (["--raw", "--system", "x"], "--system"),
        (["--raw", "--thinking"], "thinking"),
        (["--verify", "--mode", "autoregressive"], "--verify is for canvases"),
    ],
)
def test_mistakes(run: Run, checkpoint: Path, words: list[str], said: str) -> None:
    code, out, err = run("generate", "3 boxes", "--model", checkpoint, *words)
    assert (code, out) == (2, "")
    assert said in err


def test_a_checkpoint_that_is_none(run: Run, tmp_path: Path) -> None:
    for name in ("nothing", "long" * 999):
        code, _, err = run("generate", "x", "--model", tmp_path / name)
        assert code == 2
        assert name in err
    # A wrong number is told before a model is looked for, or gigabytes are read.
    assert "seed: got -1" in run("generate", "x", "--model", "nothing", "--seed", "-1").err
    assert "stability" in run("chat", "--model", "nothing", "--stability", "-1").err
    both = ("--verify", "--mode", "autoregressive")
    assert "--verify is for canvases" in run("chat", "--model", "nothing", *both).err
    assert run("generate", "x", "--model", tmp_path).code == 2


PROMPTS = ("3 boxes", "two", "Gym at 7")
LINES = "\n3 boxes\r\ntwo\n \nGym at 7"


def test_lines_are_answered_in_their_order(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    """Each as if it were alone, also where one that comes later ends sooner."""
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    model = gesso.load(checkpoint)
    first = model.generate(PROMPTS[0], seed=4)
    stop = first.text[-2:]
    results = [model.generate(prompt, seed=4, stop=stop) for prompt in PROMPTS]
    words = ("generate", "--model", checkpoint, "--seed", 4, "--stop", stop, "--lines")
    code, out, err = run(*words, file)
    assert (code, err) == (0, "")
    assert out == "".join(on_one_line(result.text) + "\n" for result in results)
    assert run(*words, "-", stdin=LINES) == (code, out, err)
    said = [json.loads(line) for line in run(*words, file, "--json").out.splitlines()]
    assert [one["token_ids"] for one in said] == [list(result.token_ids) for result in results]
    alone = run("generate", PROMPTS[1], "--model", checkpoint, "--json").out
    assert said[0].keys() == json.loads(alone).keys()


def test_answers_wait_for_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        def __init__(self, model: str) -> None:
            assert model == "model"

        def answers(self, prompts: list[str], **options: int) -> Iterator[tuple[int, str]]:
            assert options == {"seed": 4}
            for place in (2, 0, 3, 1):
                yield place, prompts[place].upper()

    monkeypatch.setattr("gesso.engine.Engine", Engine)
    told = answers(cast(Any, "model"), ["a", "b", "c", "d"], {"seed": 4})
    assert list(cast(Any, told)) == ["A", "B", "C", "D"]


def test_an_answer_has_one_line() -> None:
    for text, line in [
        ('{"a":"b\\n"}', '{"a":"b\\n"}'),
        ("für\n", "für"),
        ("", ""),
        ("fü\n\nr\n", '"fü\\n\\nr"'),
        ('a\r"', '"a\\r\\""'),
    ]:
        assert on_one_line(text) == line


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (" \n\n", [], "has no line with a prompt; give one prompt a line"),
        ("a", ["b"], "--lines: got PROMPT 'b' beside it"),
        ("a", ["--mode", "autoregressive"], "one prompt at a time; --verify gives the same"),
        ("a\n\n" + "word " * 600, [], "--lines: line 3: the prompt has"),
        ("a\nb\udcff", [], "--lines: line 2: text cannot be encoded: byte 0xFF"),
        ("a", ["--raw", "--system", "x"], "--system"),
    ],
)
def test_lines_that_cannot_be_answered(
    run: Run, checkpoint: Path, tmp_path: Path, text: str, words: list[str], said: str
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(text.encode(errors="surrogateescape"))
    for lines, stdin in ((str(file), ""), ("-", text)):
        code, out, err = run(
            "generate", "--model", checkpoint, "--lines", lines, *words, stdin=stdin
        )
        assert (code, out) == (2, "")
        assert said in err


def test_lines_of_no_file(run: Run, tmp_path: Path) -> None:
    for name in ("none.txt", ".", "a\0b", "long" * 999):
        code, _, err = run("generate", "--model", "nothing", "--lines", tmp_path / name)
        assert code == 2
        assert "--lines: " in err
        assert "give a text file, or - for stdin" in err


def test_no_prompt(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert "no prompt" in run("generate").err
    monkeypatch.setattr("sys.stdin", Terminal())
    from gesso.cli import main

    assert main(["generate"]) == 2
    assert "no prompt" in capsys.readouterr().err


def test_on_a_terminal_the_canvas_is_live(
    run: Run, checkpoint: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", terminal)
    assert run("generate", "3 boxes", "--model", checkpoint, "--watch", "0").code == 0
    assert "step 1 of at most 3" in terminal.getvalue()
    assert terminal.getvalue().rstrip().splitlines()[-1].count("10 tokens · 3 + 3 steps") == 1


def test_a_screen_without_a_live_canvas_is_not_steered_by_the_answer(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    steering = "\x1b]0;owned\x07red"
    commit = Commit(row=0, canvas=0, token_ids=(5,), text=steering, steps=1, forwards=1)
    end = End(row=0, text="", result=gesso.load(checkpoint).generate("x"))
    model = SimpleNamespace(stream=lambda prompt, **options: iter([commit, end]))
    for watched, shown in [(True, "\ufffd]0;owned\ufffdred\n"), (False, steering + "\n")]:
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda watched=watched: watched)
        monkeypatch.setattr("sys.stdout", stream)
        print_stream(cast(DiffusionGemma, model), "x", {})
        assert stream.getvalue() == shown


def test_a_cancelled_answer_is_told_by_the_exit_code(
    run: Run, checkpoint: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = SimpleNamespace(finish_reason="cancelled")
    monkeypatch.setattr("gesso.terminal.live.show", lambda *args, **options: cancelled)
    monkeypatch.setattr("sys.stdout", terminal)
    assert run("generate", "3 boxes", "--model", checkpoint).code == 130
