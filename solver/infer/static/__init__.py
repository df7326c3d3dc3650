"""Decoding in batches of fixed shapes, in which nothing waits for the device within a step. For CUDA devices."""
