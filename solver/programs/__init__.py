"""Program search: finds short compositions of grid functions that map the inputs of a task to its outputs. Needs numpy alone."""
