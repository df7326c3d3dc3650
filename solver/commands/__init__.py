"""What the verbs beside `run` do, one module a verb."""
