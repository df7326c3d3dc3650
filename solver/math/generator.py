"""The model that writes solutions: a causal language model whose tokenizer writes problems."""

from __future__ import annotations

from pathlib import Path

from solver.config import ModelSettings
from solver.infer.text_model import TextModel, load_text_model
from solver.math.tokens import MathTokenizer

Generator = TextModel[MathTokenizer]


def load_generator(folder: Path, settings: ModelSettings) -> Generator:
    """The generator in a model folder. Raises InputError if it cannot be used."""
    return load_text_model(folder, settings, MathTokenizer)
