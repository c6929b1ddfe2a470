"""Evaluation of a model's vectors: tasks, scores with chance and interval, and comparisons; nothing here trains."""
