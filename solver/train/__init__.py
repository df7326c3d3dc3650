"""Trainers: they fit adapters to the token sequences of tasks."""
