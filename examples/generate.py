"""One sentence in, one JSON object out. A sentence of your own may follow on the command line.

python examples/generate.py "Dentist for Maya with Dr. Chen on Tuesday at 3pm."
"""

import json
import sys

import gesso

SENTENCE = "My new number is 555-0134. John Baker, Initech."


def main() -> None:
    model = gesso.load("tiny")
    answer = model.generate("Extract: " + " ".join(sys.argv[1:] or [SENTENCE]))
    print(answer.text)
    try:
        parsed = json.loads(answer.text)
    except json.JSONDecodeError as error:
        print(f"  not valid JSON: {error}")
    else:
        for key, value in parsed.items():
            print(f"  {key:<12} {value}")
    stats = answer.stats
    print(f"{stats.new_tokens} tokens in {stats.forwards} forwards, {stats.seconds:.2f} s")


if __name__ == "__main__":
    main()
