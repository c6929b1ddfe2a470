"""Reports: pages of one file, and their charts."""
