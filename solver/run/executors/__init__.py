"""Executors: they run the workers of a run, as processes of this machine or simulated."""
