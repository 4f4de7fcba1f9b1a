"""Evaluation: a task's held-out splits, answered and judged."""

from gesso.evaluation.evaluate import MODES, evaluate

__all__ = ["MODES", "evaluate"]
