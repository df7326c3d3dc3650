"""Solves ARC-AGI tasks by adapting a language model to each task at test time, inside a wall-clock budget."""

__version__ = "0.1.0"
