"""Evaluation: a task's held-out splits, answered and judged."""

from gesso.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
