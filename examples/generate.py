"""One sentence in, one JSON object out. A sentence of your own may follow on the command line.

python examples/generate.py "Dentist for Maya with Dr. Chen on Tuesday at 3pm."
"""

import json
import sys

import gesso

SENTENCE = (
    "Hi, this is Ines Duarte: could you send 12 blue mugs to 14 Elm Street by Friday? Thanks!"
)


def main() -> None:
    model = gesso.load("tiny")
    answer = model.generate("Extract: " + " ".join(sys.argv[1:] or [SENTENCE]))
    print(answer.text)
    for key, value in json.loads(answer.text).items():
        print(f"  {key:<12} {value}")
    stats = answer.stats
    print(f"{stats.new_tokens} tokens in {stats.forwards} forwards, {stats.seconds:.2f} s")


if __name__ == "__main__":
    main()
