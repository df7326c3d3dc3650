"""Engines: token ids to completions and log-probabilities."""
