from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from text_models import byte_level_tokenizer, random_model

from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.head import OutputHead
from solver.model.load import Base, load_base
from solver.model.value_head import ValueHead, check_same_tokens, reserved_token, with_mean_row

FP32 = ModelSettings(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return load_base(tiny_base, FP32)


def test_values_begin_as_the_mean_logit_of_all_other_tokens(base: Base) -> None:
    token = reserved_token(base)
    ids = torch.randint(0, 10, (2, 9), generator=torch.Generator().manual_seed(0))
    before = base.model.lm_head.weight.clone()
    prepared = with_mean_row(base, token)
    with torch.no_grad():
        logits = prepared.model(input_ids=ids).logits
        values = ValueHead(token, "mse").values(logits[..., token])
    others = [other for other in range(logits.shape[-1]) if other != token]
    torch.testing.assert_close(values, logits[..., others].mean(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ValueHead(token, "bce").values(logits[..., token]), values.sigmoid())
    assert torch.equal(base.model.lm_head.weight, before)
    assert prepared.model.lm_head.weight is prepared.model.get_input_embeddings().weight


def test_the_logit_of_one_token_is_that_of_the_whole_head(base: Base) -> None:
    states = torch.randn(3, 5, base.model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    linear = torch.nn.Linear(states.shape[-1], 7)
    for head in (OutputHead.of(base.model), OutputHead(linear, 0.5, 3.0)):
        with torch.no_grad():
            torch.testing.assert_close(head.logit(states, 4), head(states)[..., 4])


@pytest.mark.parametrize(("loss", "expected"), [("mse", [0.25, 1.0]), ("bce", [0.974077, 0.126928])])
def test_losses_compare_values_with_targets(loss: Any, expected: list[float]) -> None:
    head = OutputHead(torch.nn.Linear(1, 1))
    with torch.no_grad():
        head.linear.weight.fill_(1.0)
        head.linear.bias.zero_()
    with torch.no_grad():
        found = ValueHead(0, loss).losses(head, torch.tensor([[0.5], [2.0]]), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def text_base(folder: Path, tokenizer: Any, more_rows: int = 0) -> Base:
    random_model("llama", False, len(tokenizer) + more_rows).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_base(folder, FP32)


def test_a_text_model_needs_a_token_that_no_text_has(tmp_path: Path) -> None:
    padded, named, bare = byte_level_tokenizer(), byte_level_tokenizer(), byte_level_tokenizer()
    named.add_special_tokens({"additional_special_tokens": ["<|reserved_0|>"]})
    bare.pad_token = bare.eos_token
    assert reserved_token(text_base(tmp_path / "padded", padded)) == padded.pad_token_id
    assert reserved_token(text_base(tmp_path / "wide", bare, more_rows=3)) == len(bare)
    assert reserved_token(text_base(tmp_path / "named", named)) == named.convert_tokens_to_ids("<|reserved_0|>")
    special = byte_level_tokenizer()
    special.pad_token = special.eos_token
    special.add_special_tokens({"additional_special_tokens": ["<file>", "<repo>"]})
    assert reserved_token(text_base(tmp_path / "special", special)) == special.convert_tokens_to_ids("<repo>")
    with pytest.raises(InputError, match="its tokens are not those of"):
        check_same_tokens(tmp_path / "named", tmp_path / "padded")
    check_same_tokens(tmp_path / "padded", tmp_path / "wide")
    bare.unk_token = "<pad>"  # now every special token has a role
    without = text_base(tmp_path / "bare", bare)
    with pytest.raises(InputError, match="the model has no reserved token") as refused:
        reserved_token(without)
    assert "\n" not in str(refused.value)
