"""Where the tests of word problems run their models."""

from __future__ import annotations

from solver.config import ModelSettings

CPU = ModelSettings(device="cpu", dtype="float32")
