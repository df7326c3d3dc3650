"""Procedural task families: random programs of typed primitives, applied to grids from random scenes."""

from solver.pretrain.procedural.families import Family, Procedural, family

__all__ = ["Family", "Procedural", "family"]
