"""One sentence in, one JSON object out. A sentence of your own may follow on the command line.

python examples/generate.py "Dentist for Maya with Dr. Chen on Tuesday at 3pm."
"""

import json
import sys

import gesso
from gesso.terminal.live import show
from gesso.terminal.screen import console_for, is_terminal

SENTENCE = "Two boxes of nails and a hammer for Okafor & Sons, by the 5th."
# Seconds for which each draft stays on the screen: slow enough to see what changes.
WATCH = 0.4


def main() -> None:
    model = gesso.load("tiny")
    prompt = "Extract: " + " ".join(sys.argv[1:] or [SENTENCE])
    if is_terminal(sys.stdout):
        answer = show(model, prompt, console=console_for(sys.stdout), watch=WATCH)
    else:
        answer = model.generate(prompt)
        stats = answer.stats
        numbers = f"{stats.new_tokens} tokens in {stats.forwards} forwards, {stats.seconds:.2f} s"
        print(numbers, file=sys.stderr)
    try:
        parsed = json.loads(answer.text)
    except json.JSONDecodeError as error:
        sys.exit(f"{answer.text}\nno JSON object: {error}; try another sentence")
    print(json.dumps(parsed, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
