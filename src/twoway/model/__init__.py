"""The model: its parts, the two-way switch, the proof, and the checkpoint anyone can load."""
