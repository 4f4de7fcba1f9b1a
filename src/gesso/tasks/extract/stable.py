"""A stable share of strings: who is held out depends on the string alone.

Python's hash() changes with each process, and a shuffled list with each entry added to it.
"""

from hashlib import blake2b

HELD_OUT = 0.15


def digest(text: str) -> int:
    """The same 64-bit number for the same text, anywhere."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def held_out(text: str) -> bool:
    """Whether this string belongs to the held-out share."""
    return digest(text) < HELD_OUT * 2**64
