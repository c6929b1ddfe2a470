"""How good are a model's vectors: tasks, their scores with chance and interval, and comparisons; nothing here trains."""
