"""Many requests at once, each answered as if it were alone.

    engine = Engine(gesso.load("tiny"))
    numbers = [engine.submit(prompt) for prompt in prompts]
    for event in engine.run(): ...

The engine makes the same events as the reference loop (`generation/loop.py`), token for token, but
under a time budget, which it fills with as many steps as fit. Requests come and go at any time,
their prompts are encoded in chunks beside the others' steps, and what prompts have in common is
encoded once.
"""

from gesso.engine.engine import Engine
from gesso.engine.memory import MemoryPlan

__all__ = ["Engine", "MemoryPlan"]
