"""The ARC domain: grids, tasks, views, test-time training data, selection, submissions. Needs numpy alone."""
