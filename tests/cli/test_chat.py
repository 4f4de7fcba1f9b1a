"""`gesso chat`: turns that remember each other."""

import itertools
from pathlib import Path
from typing import Any

import pytest

import gesso
from gesso.cli.chat import converse
from gesso.generation.events import Result, Statistics
from tests.cli.conftest import Run
from tests.terminal.conftest import Terminal


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_piped_every_line_is_a_turn(run: Run, checkpoint: Path) -> None:
    code, out, err = run("chat", "--model", checkpoint, stdin="one\n\ntwo\n/reset\none\n/quit\nx\n")
    assert (code, err) == (0, "")
    model = gesso.load(checkpoint)
    first = model.generate("one").text
    second = model.generate([user("one"), assistant(first), user("two")]).text
    assert out == f"{first}\n{second}\n{first}\n"


def test_the_system_message_stays(run: Run, checkpoint: Path) -> None:
    out = run(
        "chat", "--model", checkpoint, "--system", "Be brief.", stdin="one\n/reset\none\n"
    ).out
    system = {"role": "system", "content": "Be brief."}
    answer = gesso.load(checkpoint).generate([system, user("one")]).text
    assert out == f"{answer}\n{answer}\n"


def test_piped_a_mistake_ends_it(run: Run, checkpoint: Path) -> None:
    code, _, err = run("chat", "--model", checkpoint, stdin="word " * 600)
    assert code == 2
    assert "context" in err


def test_without_a_template_there_is_no_chat(run: Run, checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    code, _, err = run("chat", "--model", checkpoint, stdin="one\n")
    assert code == 2
    assert "gesso generate" in err


def result(text: str, reason: Any = "stop") -> Result:
    stats = Statistics(
        prompt_tokens=1,
        new_tokens=1,
        steps=(1,),
        hit_step_cap=(False,),
        forwards=1,
        seconds=1.0,
        first_draft_seconds=None,
        first_commit_seconds=None,
    )
    return Result(
        text=text, reasoning="", tool_calls=(), token_ids=(), finish_reason=reason, stats=stats
    )


def test_what_was_cancelled_or_failed_leaves_no_trace(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[list[dict[str, Any]]] = []

    def answer(messages: list[dict[str, Any]]) -> Result:
        asked.append(messages)
        text = messages[-1]["content"]
        if text == "too long":
            raise ValueError("too long")
        return result(f"re: {text}", "cancelled" if text == "stop me" else "stop")

    converse([], iter(["a", "stop me", "too long", "b"]), answer, patient=True)
    assert asked[-1] == [user("a"), assistant("re: a"), user("b")]
    assert capsys.readouterr().err == "gesso: too long\n"


def test_an_unknown_word_is_no_turn(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def answer(messages: list[dict[str, Any]]) -> Result:
        asked.append(messages[-1]["content"])
        return result("yes")

    turns = ["/help", " /foo bar\n", "/reset now", "/etc/hosts is gone", "/ or \\?", "1/2"]
    converse([], iter(turns), answer, patient=True)
    assert asked == turns[3:]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for line, turn in zip(lines, turns, strict=False):
        assert line.startswith(f"gesso: got {turn.strip()!r}; known words")
        assert "/reset forgets" in line
        assert "/quit" in line
    code, out, err = run("chat", stdin="/help\n")
    assert (code, out) == (2, "")
    assert "known words" in err


def test_help_says_what_tiny_has_learned(run: Run) -> None:
    assert "learned single turns: give it /reset" in " ".join(run("chat", "--help").out.split())


def test_at_the_keyboard(
    checkpoint: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gesso.cli import main

    keys = itertools.chain(["one", KeyboardInterrupt, "/reset", EOFError])

    def typed(prompt: str) -> str:
        key = next(keys)
        if isinstance(key, str):
            return key
        raise key

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", terminal)
    assert main(["chat", "--model", str(checkpoint), "--watch", "0"]) == 0
    assert "/reset forgets" in terminal.getvalue()
    assert gesso.load(checkpoint).generate("one").text.splitlines()[0] in terminal.getvalue()
