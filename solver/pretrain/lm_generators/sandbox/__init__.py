"""Runs code that nobody has read in a process of its own, which can compute and answer, and nothing else."""
