"""Experiments of published work: arms that differ in one setting, the same tasks for all of them, and what they are worth."""
