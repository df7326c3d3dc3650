"""vLLM writes what the HF engine writes, and both end a completion with its block of code. Needs an environment with vllm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from text_models import write_folder

from solver.config import InferSettings, ModelSettings
from solver.infer.base import EngineState
from solver.infer.text_model import TextModel
from solver.infer.vllm import shim
from solver.pretrain.lm_generators import writing
from solver.pretrain.lm_generators.writing import Writer, WritingOptions

pytestmark = [
    pytest.mark.skipif(not shim.distribution(), reason="vllm is not installed here"),
    pytest.mark.slow,
]


@pytest.fixture
def state() -> Iterator[EngineState]:
    state = EngineState()
    yield state
    if state.vllm.running is not None:
        state.vllm.running.close()


def test_both_engines_write_the_same(tmp_path: Path, state: EngineState, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "model", "llama", True, head_dim=64)
    make_engine = TextModel.engine
    monkeypatch.setattr(TextModel, "engine", lambda self, settings: make_engine(self, settings, state))

    def read(text: str, finished: bool) -> tuple[str, str]:
        return "", f"{finished} {text}"

    question = writing._Question(lambda _: "def f(", lambda text: len(text) > 9, read)
    monkeypatch.setitem(writing._FIRST, "code", question)
    options = WritingOptions(("code",), temperature=0.7, max_new_tokens=24)
    settings = ModelSettings(device="cpu", dtype="float32", context=256)
    theirs, ours = (
        Writer(tmp_path / "model", settings, InferSettings(engine=name), options).write([0, 1]) for name in ("vllm", "hf")
    )
    assert theirs == ours
    texts = {one.code for completions in ours for one in completions}
    assert len(texts) > 4
    assert all(text.startswith("True ") and 9 < len(text) < 40 for text in texts)  # all were ended by what they hold
