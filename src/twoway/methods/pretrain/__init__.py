"""`pretrain`: masked words and masked patches (MoCa, arXiv 2506.23115)."""
