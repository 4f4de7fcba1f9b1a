"""Training: the objective, the data, the trainer."""
