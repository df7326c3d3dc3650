"""Training goes down in loss, stops in time, and goes on exactly where it stopped."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from solver.arc.datasets import load_tasks
from solver.codec import grid_codec
from solver.errors import InputError
from solver.model.build import Shape, new_model
from solver.model.lean import LeanPass
from solver.pretrain.checkpoint import load_model
from solver.pretrain.fast import fast_states
from solver.pretrain.loop import LoopSettings, batch_losses, rate_factor, train
from solver.pretrain.optim import orthogonalise
from solver.pretrain.sampler import Batch, Sampler, SamplerSettings
from solver.pretrain.store import PairStore, pack
from solver.pretrain.supply import supply
from solver.pretrain.target import GridTarget

SETTINGS = SamplerSettings(batch_tokens=1024, block_batches=4, max_tokens=512)
SHAPE = Shape(hidden=32, layers=2, heads=2, ffn=64)


@pytest.fixture(scope="module")
def store() -> PairStore:
    return pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training").tasks[:40])


def sampler(store: PairStore, seed: int = 0) -> Sampler:
    return Sampler(store, {}, grid_codec(), SETTINGS, seed)


def ticking(step: float) -> Callable[[], float]:
    counter = itertools.count()
    return lambda: next(counter) * step


def test_store_survives_the_disk(store: PairStore, tmp_path: Path) -> None:
    store.save(tmp_path / "s.npz")
    again = PairStore.load(tmp_path / "s.npz")
    assert again.names == store.names
    for index in range(0, len(store.pairs), 7):
        for mine, theirs in zip(store.pair(index), again.pair(index), strict=True):
            assert np.array_equal(mine, theirs)


def test_batches_resume_at_any_position(store: PairStore) -> None:
    stream = list(itertools.islice(sampler(store).batches(0, 0), 12))
    block, index, _ = stream[5]
    resumed = list(itertools.islice(sampler(store).batches(block, index), 6))
    for (_, _, a), (_, _, b) in zip(stream[6:], resumed, strict=True):
        assert np.array_equal(a.ids, b.ids)
    other = next(sampler(store, seed=1).batches(0, 0))[2]
    assert not np.array_equal(stream[0][2].ids, other.ids)


def test_batches_made_ahead_are_the_same(store: PairStore) -> None:
    block, index, _ = next(itertools.islice(sampler(store).batches(0, 0), 2, 3))
    here = itertools.islice(sampler(store).batches(block, index), 9)
    ahead = supply(sampler(store), block, index, workers=2)
    for (*place, batch), (*other_place, other) in zip(here, itertools.islice(ahead, 9), strict=True):
        assert place == other_place
        assert np.array_equal(batch.ids, other.ids)
        assert np.array_equal(batch.weights, other.weights)
    ahead.close()


def test_sequences_are_well_formed_and_within_bounds(store: PairStore) -> None:
    codec = grid_codec()
    rng = np.random.default_rng(0)
    for _ in range(50):
        sequence = sampler(store).sequence(rng)
        assert len(sequence) <= SETTINGS.max_tokens
        last = int(np.flatnonzero(sequence.ids == codec.output_marker[0])[-1])
        demonstrations, _ = codec.decode_prompt(sequence.ids[: last + 1])
        assert SETTINGS.min_pairs - 1 <= len(demonstrations) < SETTINGS.max_pairs
        assert codec.decode_answer(sequence.ids[last + 1 :]) is not None
        assert sequence.weights[last] == 0
        assert (sequence.weights[last + 1 :] == 1).all()


def test_orthogonalise_keeps_singular_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 8, 20), (2, 20, 8)):
        matrices = torch.randn(shape, generator=generator)
        values = torch.linalg.svdvals(orthogonalise(matrices))
        assert values.min() > 0.6
        assert values.max() < 1.3
        u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
        aligned = u.mT @ orthogonalise(matrices) @ vt.mT
        torch.testing.assert_close(aligned, torch.diag_embed(aligned.diagonal(dim1=-2, dim2=-1)), atol=1e-3, rtol=0)


def test_loss_falls_and_checkpoints_load(store: PairStore, tmp_path: Path) -> None:
    lines: list[str] = []
    validation = [next(sampler(store, seed=9).batches(0, 0))[2]]
    model = new_model(SHAPE)
    settings = LoopSettings(minutes=4, warmup_steps=5, checkpoint_minutes=1, validate_minutes=1, lr=5e-3)
    end = train(GridTarget(model), sampler(store), validation, settings, tmp_path, None, 0, lines.append, ticking(0.5))
    assert end.steps > 30
    held = [float(line.split("held_out_loss ")[1].split()[0]) for line in lines if "held_out_loss" in line]
    assert len(held) > 1
    assert held[-1] < held[0] < np.log(16) + 0.5
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "latest", use_safetensors=True)
    assert loaded.dtype == torch.bfloat16
    exact = load_model(tmp_path / "latest")
    for name, value in exact.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert len(list(tmp_path.glob("step-*"))) <= 2
    assert (tmp_path / "metrics.png").read_bytes().startswith(b"\x89PNG")


def test_bf16_devices_learn_through_the_ordinary_modules(
    store: PairStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solver.pretrain.fast.fastest_dtype", lambda device: torch.bfloat16)
    model = new_model(SHAPE)
    states, piece = fast_states(model)
    assert piece is None
    batch = next(sampler(store).batches(0, 0))[2]
    rough = sum(float(loss.detach()) for loss, _ in batch_losses(states, model.lm_head, batch, piece, torch.device("cpu")))
    exact = sum(float(loss.detach()) for loss, _ in batch_losses(LeanPass(model), model.lm_head, batch, 300, torch.device("cpu")))
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.01)


class SteppedSampler(Sampler):
    """A sampler that is also the clock: one second passes with every batch."""

    now = 0.0

    def batches(self, block: int, batch: int) -> Iterator[tuple[int, int, Batch]]:
        for item in super().batches(block, batch):
            yield item
            self.now += 1


def test_resuming_equals_never_having_stopped(store: PairStore, tmp_path: Path) -> None:
    def run(out: Path, steps: int, resume: Path | None) -> tuple[int, dict[str, torch.Tensor]]:
        model = load_model(resume) if resume else new_model(SHAPE)
        stepped = SteppedSampler(store, {}, grid_codec(), SETTINGS, 0)
        settings = LoopSettings(minutes=steps / 60, warmup_steps=1, cooldown=0, checkpoint_minutes=99, validate_minutes=99)
        validation = [next(sampler(store).batches(0, 0))[2]]
        end = train(GridTarget(model), stepped, validation, settings, out, resume, 0, str, lambda: stepped.now)
        return end.steps, model.state_dict()

    steps, whole = run(tmp_path / "whole", 12, None)
    first, _ = run(tmp_path / "parts", 6, None)
    last, parts = run(tmp_path / "parts", 6, tmp_path / "parts" / "latest")
    other, _ = run(tmp_path / "other", 11, None)
    assert (steps, first, last, other) == (12, 6, 12, 11)
    for name in whole:  # weights and data position are exact, momentum is kept in bf16
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=2e-3)


def test_rate_warms_up_holds_and_cools_down() -> None:
    settings = LoopSettings(minutes=1, warmup_steps=10, cooldown=0.5)
    assert rate_factor(0, 0.0, settings) == pytest.approx(0.1)
    assert rate_factor(50, 0.3, settings) == 1.0
    assert rate_factor(50, 0.75, settings) == pytest.approx(0.5)
    assert rate_factor(50, 1.0, settings) == 0.0
    assert rate_factor(500, 1.0, LoopSettings(minutes=1, cooldown=0)) == 1.0


def test_other_codecs_and_plain_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"codec\.json"):
        load_model(tmp_path)
    (tmp_path / "codec.json").write_text('{"codec": "grid-0"}')
    with pytest.raises(InputError, match=r"grid-0.*grid-1"):
        load_model(tmp_path)
