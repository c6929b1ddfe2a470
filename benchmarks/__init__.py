"""Benchmarks: ratios of two things run side by side on the same machine, with the work counted."""
