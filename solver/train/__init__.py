"""Trainers: jobs of token sequences to adapters."""
