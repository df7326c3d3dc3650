"""A worker's process: what it does with one work item after the other."""
