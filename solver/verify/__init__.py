"""Learned verifiers: models that say for every token of a solution how likely the solution is to end in the right answer."""
