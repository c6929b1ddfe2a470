"""`bridge`: one EOS token learns to carry a row (CoCoA, arXiv 2603.01471)."""
