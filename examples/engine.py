"""Requests that come and go: each is answered as if it were alone.

python examples/engine.py
"""

import gesso

PROMPTS = [
    "Extract: Three crates of lemons for Rosa Diaz, please, by Friday.",
    "Extract: Dentist for Maya with Dr. Chen on Tuesday at 3pm.",
    "Extract: My new number is 555-0134. John Baker, Initech.",
    "Extract: A gas leak at 5 King Street last night, says Ms. Hall.",
]


def main() -> None:
    engine = gesso.Engine(gesso.load("tiny"), max_rows=2)
    print(f"memory: {engine.memory}")
    waiting = list(PROMPTS)
    engine.submit(waiting.pop(0))
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, gesso.End):
                print(f"{event.row}: {event.result.text}")
        if waiting:  # a new request while others are at work
            engine.submit(waiting.pop(0))


if __name__ == "__main__":
    main()
