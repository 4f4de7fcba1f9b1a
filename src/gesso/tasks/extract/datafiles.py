"""The package's plain text data: one entry a line, # for comments."""

from importlib.resources import files


def lines(folder: str, name: str) -> list[str]:
    """The entries of a file of this package."""
    path = files("gesso.tasks.extract") / folder / f"{name}.txt"
    text = path.read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def table(name: str) -> dict[str, tuple[str, ...]]:
    """A word file of rows `key: one|two|three`."""
    rows = (line.split(": ", 1) for line in lines("words", name))
    return {key: tuple(words.split("|")) for key, words in rows}
