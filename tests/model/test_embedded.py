"""The model inside the package: small, loadable by transformers alone, and trained."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from solver.arc.datasets import load_tasks
from solver.codec import GRID_VOCABULARY, grid_codec
from solver.config import ModelSettings
from solver.model.folder import EMBEDDED
from solver.model.load import load_base


def test_it_is_small_and_says_what_it_is() -> None:
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) <= 16 * 2**20
    assert (EMBEDDED / "README.md").is_file()
    base = load_base(None, ModelSettings())
    assert base.parameters <= 8_000_000
    assert base.context == 8192
    assert base.codec == grid_codec()


def test_transformers_loads_it_alone() -> None:
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, local_files_only=True, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED, local_files_only=True)
    assert model.config.vocab_size == len(tokenizer) == len(GRID_VOCABULARY)
    assert tokenizer("<begin><input>01\n2").input_ids == [14, 11, 0, 1, 10, 2]
    assert tokenizer.eos_token_id == model.config.eos_token_id == grid_codec().end


def test_it_predicts_outputs_of_tasks_from_their_demonstrations() -> None:
    """On training tasks of ARC-AGI-1; an untrained model gets one token in sixteen."""
    base = load_base(None, ModelSettings(dtype="float32"))
    short = sorted(load_tasks("arc1:training"), key=lambda task: task.grid_tokens())[20:40]
    right, total = 0, 0
    for task in short:
        sequence = base.codec.sequence(task.query(0), base.context)
        ids = torch.from_numpy(sequence.ids.astype(np.int64))
        with torch.inference_mode():
            guesses = base.model(input_ids=ids[None]).logits[0, :-1].argmax(-1)
        wanted = torch.from_numpy(sequence.weights[1:] > 0)
        right += int((guesses == ids[1:])[wanted].sum())
        total += int(wanted.sum())
    assert right / total > 0.6
