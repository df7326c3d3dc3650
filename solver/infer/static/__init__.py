"""Decoding in batches of fixed shapes, in which nothing waits for the device within a step.

It is for CUDA devices, and was not run on one yet: the tests run the same steps one by one on a CPU.
"""
