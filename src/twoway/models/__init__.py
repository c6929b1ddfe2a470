"""Models: opened, switched to two-way attention, pooled, adapted, and saved as a checkpoint that anyone can load."""
