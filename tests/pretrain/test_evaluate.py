"""Evaluation asks every held-out family alike, and its numbers are those of the model."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from solver.arc.datasets import load_tasks
from solver.codec import grid_codec
from solver.config import ModelSettings
from solver.model.load import load_base
from solver.pretrain import evaluate as module
from solver.pretrain.evaluate import AnswerCounts, evaluate, held_out_queries
from solver.pretrain.store import PairStore, pack


@pytest.fixture(scope="module")
def store() -> PairStore:
    return pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training").tasks[:60])


def test_queries_are_spread_evenly_and_drawn_from_the_seed(store: PairStore) -> None:
    asked = list(held_out_queries(store, grid_codec(), 100, 0))
    counts = Counter(family for family, _ in asked)
    assert len(counts) > 10
    assert set(counts.values()) == {-(-100 // len(counts))}
    again = list(held_out_queries(store, grid_codec(), 100, 0))
    assert [(f, s.ids.tolist()) for f, s in asked] == [(f, s.ids.tolist()) for f, s in again]
    assert [s.ids.tolist() for _, s in asked] != [s.ids.tolist() for _, s in held_out_queries(store, grid_codec(), 100, 1)]
    for _, sequence in asked:
        outputs = [i for i, token in enumerate(sequence.ids) if token == grid_codec().output_marker[0]]
        assert len(outputs) == 4
        assert not sequence.weights[: outputs[-1]].any()  # the answer alone counts
        assert len(sequence) <= module.MAX_TOKENS


def test_tallies_are_those_of_the_ordinary_forward_pass(
    store: PairStore, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_store", lambda *_: store)
    monkeypatch.setattr(module, "held_out", lambda name: name < "4")
    tallies = evaluate(tiny_base, None, tmp_path, 12, 3, lambda _: None).tallies
    base = load_base(tiny_base, ModelSettings(dtype="float32"))
    expected = AnswerCounts()
    for _, sequence in held_out_queries(store.select([name < "4" for name in store.names]), base.codec, 12, 3):
        with torch.no_grad():
            logits = base.model(torch.from_numpy(sequence.ids[None].astype("int64"))).logits[0]
        places = torch.from_numpy(sequence.weights[1:] > 0)
        targets = torch.from_numpy(sequence.ids[1:].astype("int64"))[places]
        loss = torch.nn.functional.cross_entropy(logits[:-1][places], targets, reduction="sum")
        right = int((logits[:-1][places].argmax(-1) == targets).sum())
        expected += AnswerCounts(1, int(right == len(targets)), len(targets), right, float(loss))
    assert list(tallies) == ["arc1"]
    tally = tallies["arc1"]
    assert tally.queries == expected.queries
    assert tally.tokens == expected.tokens
    assert abs(tally.right - expected.right) <= 2  # rounding may decide between tokens of equal probability
    assert tally.nats == pytest.approx(expected.nats, rel=1e-4)


def test_wilson_interval_by_hand() -> None:
    low, high = AnswerCounts(queries=10, exact=5).interval()
    assert (low, high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert AnswerCounts(queries=10, exact=0).interval()[0] == pytest.approx(0.0, abs=1e-12)
