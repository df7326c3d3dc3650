"""Batches, schedule and optimizer on their own."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from counted_calls import record_calls
from hypothesis import given
from hypothesis import strategies as st

from solver.config import ModelSettings
from solver.model.fused_training import decoder_states
from solver.model.load import load_base
from solver.train.batches import BatchRow, collate, micro_batches, optimizer_batches, padded_tokens
from solver.train.loss import slot_losses
from solver.train.schedule import rate, share_done
from solver.train.weights import AdamW, FlatWeights, clip_gradients
from solver.types import TokenSequence


def sequence(rng: np.random.Generator, length: int, weighted: int | None = None) -> TokenSequence:
    weights = np.zeros(length, np.float32)
    weights[1 : weighted or length] = 1
    return TokenSequence(rng.integers(0, 10, length).astype(np.int32), weights)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(0, 25), st.integers(1, 7), st.integers(0, 5))
def test_batches_take_sequences_in_order_and_round_again(lengths: list[int], steps: int, size: int, seed: int) -> None:
    batches = list(optimizer_batches(lengths, steps, size, seed))
    assert [len(batch) for batch in batches] == [size] * steps
    expected = Counter(i % len(lengths) for i in range(steps * size))
    assert Counter(i for batch in batches for i in batch) == expected
    assert batches == list(optimizer_batches(lengths, steps, size, seed))


def test_batches_hold_like_lengths_in_a_seeded_order() -> None:
    lengths = [10, 50, 11, 51, 12, 52, 13, 53]
    batches = list(optimizer_batches(lengths, 20, 4, 0))
    assert all(len({lengths[i] > 30 for i in batch}) == 1 for batch in batches)
    assert batches != list(optimizer_batches(lengths, 20, 4, 1))


@given(st.lists(st.integers(2, 60), min_size=1, max_size=20), st.integers(1, 200))
def test_micro_batches_keep_every_row_within_the_limit(lengths: list[int], limit: int) -> None:
    rng = np.random.default_rng(0)
    rows = [BatchRow(0, sequence(rng, n), 1.0) for n in lengths]
    groups = micro_batches(rows, limit)
    assert sorted(id(row) for group in groups for row in group) == sorted(map(id, rows))
    for group in groups:
        assert len(group) == 1 or len(group) * max(row.length for row in group) <= limit
    assert padded_tokens(rows, limit) >= sum(row.length for row in rows)


def test_padding_and_unweighted_tails_change_nothing(tiny_base: Path) -> None:
    """Right padding without a mask equals one sequence at a time through the model's own forward pass."""
    base = load_base(tiny_base, ModelSettings(dtype="float32", device="cpu"))
    rng = np.random.default_rng(1)
    rows = [BatchRow(slot, sequence(rng, n, w), float(n)) for slot, (n, w) in enumerate([(30, None), (7, None), (25, 12)])]
    together = slot_losses(decoder_states(base.model), base.model.lm_head, collate(rows, base.codec.pad), 3)
    for row in rows:
        ids = torch.from_numpy(row.sequence.ids.astype(np.int64))
        predicted = base.model(ids[None], attention_mask=torch.ones(1, len(ids))).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(predicted, ids[1:], reduction="none")
        alone = (losses * torch.from_numpy(row.sequence.weights[1:])).sum() / row.normaliser
        torch.testing.assert_close(together[row.slot], alone, atol=1e-5, rtol=1e-5)


def test_a_row_does_not_see_its_neighbours(tiny_base: Path) -> None:
    base = load_base(tiny_base, ModelSettings(dtype="float32", device="cpu"))
    rng = np.random.default_rng(2)
    fixed, *others = (BatchRow(slot, sequence(rng, 20), 1.0) for slot in (0, 1, 1))
    losses = [
        slot_losses(decoder_states(base.model), base.model.lm_head, collate([fixed, other], base.codec.pad), 2)
        for other in others
    ]
    assert torch.equal(losses[0][0], losses[1][0])
    assert losses[0][1] != losses[1][1]


def test_chunked_logits_give_equal_losses_and_gradients(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import solver.train.loss as loss

    base = load_base(tiny_base, ModelSettings(dtype="float32", device="cpu"))
    base.model.requires_grad_(True)
    rng = np.random.default_rng(3)
    batch = collate([BatchRow(slot, sequence(rng, 20 + slot), 1.0) for slot in range(3)], base.codec.pad)
    chunks = record_calls(monkeypatch, loss, "checkpoint")
    found, counts = [], []
    for limit in (2**26, 16 * 7):
        monkeypatch.setattr(loss, "_LOGITS", limit)
        losses = slot_losses(decoder_states(base.model), base.model.lm_head, batch, 3)
        found.append((losses.detach(), torch.autograd.grad(losses.sum(), base.model.get_input_embeddings().weight)[0]))
        counts.append(len(chunks))
    assert counts == [0, -(-len(batch.targets) // 7)]
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(whole, chunked, atol=1e-4, rtol=1e-4)


def test_the_rate_rises_stays_and_falls() -> None:
    shares = np.linspace(0, 1, 101)
    rates = [rate(float(s), 0.1, 0.3) for s in shares]
    assert rates[0] == rates[-1] == 0
    assert rates[5] == pytest.approx(0.5)
    assert all(r == 1 for r in rates[11:70])
    assert rates[85] == pytest.approx(0.5)
    assert rate(0.0, 0.0, 0.0) == rate(1.0, 0.0, 0.0) == 1


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_is_a_factor(share: float, warmup: float, cooldown: float) -> None:
    assert 0 <= rate(share, warmup, cooldown) <= 1


def test_the_clock_brings_the_cooldown_forward() -> None:
    assert share_done(0, 9, 0.0, float("inf")) == pytest.approx(0.1)
    assert share_done(8, 9, 5.0, float("inf")) == pytest.approx(0.9)
    assert share_done(0, 1000, 8.0, 2.0) == pytest.approx(0.8)  # a thousand steps will never fit in
    assert share_done(0, 1000, 8.0, -1.0) == 1


def test_adamw_equals_torchs_for_every_slot() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.Parameter(torch.randn(2, *shape, generator=generator)) for shape in ((3, 4), (5,)))
    theirs = [[torch.nn.Parameter(p[slot].detach().clone()) for p in (a, b)] for slot in (0, 1)]
    rates = (0.1, 0.01)
    references = [torch.optim.AdamW(ps, lr=lr, weight_decay=0.1) for ps, lr in zip(theirs, rates, strict=True)]
    weights = FlatWeights([a, b], slots=2)
    optimizer = AdamW(weights, weight_decay=0.1)
    for _ in range(5):
        weights.grads.zero_()
        targets = [torch.randn(p.shape, generator=generator) for p in (a, b)]
        weights.add_gradients(sum(((p - t) ** 2).sum() for p, t in zip((a, b), targets, strict=True)))
        norms = clip_gradients(weights, 1.0)
        optimizer.step(torch.tensor(rates))
        for slot, (ps, reference) in enumerate(zip(theirs, references, strict=True)):
            reference.zero_grad()
            sum(((p - t[slot]) ** 2).sum() for p, t in zip(ps, targets, strict=True)).backward()
            assert float(torch.nn.utils.clip_grad_norm_(ps, 1.0)) == pytest.approx(float(norms[slot]), rel=1e-5)
            reference.step()
    for slot in (0, 1):
        for ours, expected in zip((a, b), theirs[slot], strict=True):
            torch.testing.assert_close(ours[slot], expected, atol=1e-5, rtol=1e-4)


def test_a_slot_at_rate_zero_stays() -> None:
    p = torch.nn.Parameter(torch.ones(2, 3))
    weights = FlatWeights([p], slots=2)
    weights.add_gradients(p.sum())
    AdamW(weights, 0.0).step(torch.tensor([0.0, 0.1]))
    assert (p[0] == 1).all()
    assert (p[1] < 1).all()


class SquaredNorm:
    """A stand-in value loss that depends on states and targets alone."""

    def losses(self, head: object, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (states.square().mean(-1) - targets).square()


def test_value_targets_add_their_mean_loss_to_that_of_the_predictions(tiny_base: Path) -> None:
    """For rows with weights, with values, and with both; the states of a token are those of the sequence up to it."""
    base = load_base(tiny_base, ModelSettings(dtype="float32", device="cpu"))
    rng = np.random.default_rng(4)
    weighted, valued, both = sequence(rng, 12), sequence(rng, 20), sequence(rng, 9, 4)
    targets = np.full(20, np.nan, np.float32)
    targets[[3, 19]] = (0.0, 1.0)
    valued = TokenSequence(valued.ids, np.zeros(20, np.float32), targets)
    both = TokenSequence(both.ids, both.weights, np.where(np.arange(9) == 5, 0.5, np.nan).astype(np.float32))
    rows = [BatchRow(0, one, 15.0, 3.0) for one in (weighted, valued, both)]
    assert [row.length for row in rows] == [11, 20, 6]
    states = decoder_states(base.model)
    found = slot_losses(states, base.model.lm_head, collate(rows, base.codec.pad), 1, SquaredNorm())
    plain = [BatchRow(0, TokenSequence(one.ids, one.weights), 15.0) for one in (weighted, both)]
    expected = slot_losses(states, base.model.lm_head, collate(plain, base.codec.pad), 1)
    for one in (valued, both):
        assert one.values is not None
        hidden = base.model.get_decoder()(input_ids=torch.from_numpy(one.ids[None].astype(np.int64))).last_hidden_state[0]
        for place in np.flatnonzero(~np.isnan(one.values)):
            expected = expected + (hidden[place].square().mean() - float(one.values[place])) ** 2 / 3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
