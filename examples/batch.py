"""Several prompts in one batch, each with its seed: a row's answer is what it would be alone."""

import gesso

PROMPTS = [
    "Extract: Please book Maya Reyes with Dr. Chen on Tuesday at 3pm.",
    "Extract: My new number is 555-0134. John Baker, Initech.",
    "Extract: Two boxes of nails and a hammer for Okafor & Sons, by the 5th.",
]


def main() -> None:
    model = gesso.load("tiny")
    seeds = [7, 8, 9]
    together = model.generate_batch(PROMPTS, seeds=seeds)
    for prompt, seed, answer in zip(PROMPTS, seeds, together, strict=True):
        alone = model.generate(prompt, seed=seed)
        same = "the same alone" if alone.token_ids == answer.token_ids else "NOT the same alone"
        print(f"seed {seed}: {answer.text}  ({sum(answer.stats.steps)} steps, {same})")


if __name__ == "__main__":
    main()
