"""Task families without end: random programs of typed primitives over random scenes."""

from solver.pretrain.procedural.families import Family, Procedural, family

__all__ = ["Family", "Procedural", "family"]
