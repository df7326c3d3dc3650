"""A causal language model that writes text, with its tokenizer and with an engine that draws completions of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from solver.config import InferSettings, ModelSettings
from solver.infer.base import Engine, EngineState
from solver.infer.registry import make_engine
from solver.model.folder import check_folder, folder_identity
from solver.model.load import Base, load_base, load_tokenizer
from solver.model.text_tokenizer import TextTokenizer

Tokenizer = TypeVar("Tokenizer", bound=TextTokenizer)


@dataclass(frozen=True, eq=False)
class TextModel(Generic[Tokenizer]):
    """A causal language model in Hugging Face format, and its tokenizer."""

    base: Base
    tokenizer: Tokenizer
    fingerprint: str  # as `folder_identity` gives it; files of what it wrote name it

    def engine(self, settings: InferSettings, state: EngineState | None = None) -> Engine:
        """An engine that draws any text: the grammar of grids is off. Raises InputError and what `make_engine` raises."""
        return make_engine(self.base, settings.model_copy(update={"grammar": False}), state=state)


def load_text_model(
    folder: Path, settings: ModelSettings, read_tokenizer: Callable[[Any, str], Tokenizer]
) -> TextModel[Tokenizer]:
    """The model in a folder. `read_tokenizer` makes the tokenizer from one of transformers and the folder's name.

    Raises InputError if the model cannot be used.
    """
    check_folder(folder)
    tokenizer = read_tokenizer(load_tokenizer(folder), str(folder))
    return TextModel(load_base(folder, settings, codec=tokenizer.codec), tokenizer, folder_identity(folder))
