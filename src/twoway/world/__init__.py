"""The small real world: samples built from packages, and a small base model that looks at its images."""
