"""Watch a canvas resolve: every denoising step's draft, a line each, uncertain tokens as dots."""

import gesso

PROMPT = "Extract: A burst pipe in Room 12 on Monday at 9am, says Tom Baker."
# Nats: above this a token is still anybody's guess.
UNCERTAIN = 1.0


def main() -> None:
    model = gesso.load("tiny")
    tokenizer = model.processor.tokenizer
    for event in model.stream(PROMPT):
        if isinstance(event, gesso.Draft):
            sure = (event.entropy < UNCERTAIN).tolist()
            shown = (
                tokenizer.decode([token]) if certain else "·"
                for token, certain in zip(event.tokens.tolist(), sure, strict=True)
            )
            print(f"canvas {event.canvas} step {event.step + 1:>2}  {''.join(shown)}")
        elif isinstance(event, gesso.Commit):
            print(f"committed {len(event.token_ids)} tokens after {event.steps} steps")
        elif isinstance(event, gesso.End):
            print(f"{event.result.finish_reason}: {event.result.text}")


if __name__ == "__main__":
    main()
