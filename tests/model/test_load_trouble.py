"""A model that cannot be loaded: the user's input, or the machine's trouble, which may be over in a minute."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import transformers

from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.load import load_base


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (MemoryError("simulated"), MemoryError),
        (RuntimeError("CUDA out of memory: simulated"), RuntimeError),
        (OSError(errno.EIO, "Input/output error"), OSError),
        (OSError("no file named model.safetensors"), InputError),
        (KeyError("model_type"), InputError),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_trouble_of_the_machine_is_not_the_users(
    error: Exception, seen: type[Exception], own: bool, plain_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a model of this package, and with one of transformers."""

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("solver.model.cell_folder.load_file", refuse)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(seen) as raised:
        load_base(None if own else plain_base, ModelSettings(device="cpu"))
    assert type(raised.value) is seen
