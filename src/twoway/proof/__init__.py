"""The proof: what a model's attention does, shown by behaviour."""
