"""A worker process: it loads a model and works on one work item after the other."""
