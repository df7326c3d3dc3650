"""The model that writes solutions, ready to draw them: base, tokenizer and engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from solver.config import InferSettings, ModelSettings
from solver.infer.base import Engine, EngineState
from solver.infer.registry import make_engine
from solver.math.tokens import MathTokenizer
from solver.model.folder import check_folder, folder_identity
from solver.model.load import Base, load_base, load_tokenizer


@dataclass(frozen=True, eq=False)
class Generator:
    """A causal language model in Hugging Face format, and its tokenizer."""

    base: Base
    tokenizer: MathTokenizer
    fingerprint: str  # as `folder_identity` gives it; samples name it

    def engine(self, settings: InferSettings, state: EngineState | None = None) -> Engine:
        """An engine that draws any text: the grammar of grids is off. Raises InputError and what `make_engine` raises."""
        return make_engine(self.base, settings.model_copy(update={"grammar": False}), state=state)


def load_generator(folder: Path, settings: ModelSettings) -> Generator:
    """The generator in a model folder. Raises InputError if it cannot be used."""
    check_folder(folder)
    tokenizer = MathTokenizer(load_tokenizer(folder), str(folder))
    return Generator(load_base(folder, settings, codec=tokenizer.codec), tokenizer, folder_identity(folder))
