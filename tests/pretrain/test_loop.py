"""Training goes down in loss, stops in time, and goes on exactly where it stopped."""

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from plain_qwen3 import write_plain_qwen3
from prompt_decoding import decode_prompt
from safetensors.torch import load_file, save_file

from solver.arc.datasets import load_tasks
from solver.arc.task import Pair
from solver.codec import grid_codec
from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.build import Shape, new_model
from solver.model.fused_training import FusedTrainingPass
from solver.model.load import load_base
from solver.pretrain.checkpoint import CheckpointError, Position, load_model, load_state, save_checkpoint
from solver.pretrain.command import PRESETS, PretrainOptions, make_target
from solver.pretrain.fast import fast_states
from solver.pretrain.loop import LoopSettings, batch_losses, rate_factor, train
from solver.pretrain.optim import orthogonalise
from solver.pretrain.sampler import Batch, Sampler, SamplerSettings
from solver.pretrain.store import PairStore, pack
from solver.pretrain.supply import supply
from solver.pretrain.target import GridTarget, PretrainTarget

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


SUPPLIED = """
import multiprocessing, time
from solver.arc.datasets import load_tasks
from solver.codec import grid_codec
from solver.config import ModelSettings
from solver.pretrain.sampler import Sampler, SamplerSettings
from solver.pretrain.store import pack
from solver.pretrain.supply import supply

if __name__ == "__main__":
    store = pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training").tasks[:10])
    settings = SamplerSettings(batch_tokens=1024, block_batches=1, max_tokens=512)
    stream = supply(Sampler(store, {}, grid_codec(), settings, 0), 0, 0, workers=2)
    next(stream)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def test_a_training_that_is_killed_takes_its_suppliers_along(tmp_path: Path) -> None:
    script = tmp_path / "supplied.py"
    script.write_text(SUPPLIED)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        suppliers = [psutil.Process(int(pid)) for pid in training.stdout.readline().split()]
        training.kill()
    assert len(suppliers) == 2
    _, left = psutil.wait_procs(suppliers, timeout=20)
    alive = [process for process in left if process.status() != psutil.STATUS_ZOMBIE]  # nobody may be there to bury them
    for process in alive:
        process.kill()
    assert not alive


def test_sequences_are_well_formed_and_within_bounds(store: PairStore) -> None:
    codec = grid_codec()
    rng = np.random.default_rng(0)
    for _ in range(50):
        sequence = sampler(store).draw(rng).sequence
        assert len(sequence) <= SETTINGS.max_tokens
        last = int(np.flatnonzero(sequence.ids == codec.output_marker[0])[-1])
        demonstrations, _ = decode_prompt(codec, sequence.ids[: last + 1])
        assert SETTINGS.min_pairs - 1 <= len(demonstrations) < SETTINGS.max_pairs
        assert codec.decode_answer(sequence.ids[last + 1 :]) is not None
        assert sequence.weights[last] == 0
        assert (sequence.weights[last + 1 :] == 1).all()


def test_families_whose_pairs_hardly_fit_are_given_up_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.pretrain.sampler.MAX_DRAWS", 50)
    small, large = np.ones((1, 1), np.uint8), np.ones((30, 30), np.uint8)
    family = [Pair(small, small)] * 2 + [Pair(large, large)] * 5000
    drawn = Sampler(pack([("f", "mine", family)]), {}, grid_codec(), SETTINGS, 0)
    with pytest.raises(InputError, match="mine: in 50 draws no family had 2 pairs that fit a sequence of 512 tokens"):
        drawn.block(0)


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


@pytest.mark.parametrize("shape", [(3, 24, 24), (3, 20, 60), (3, 60, 20), (2, 20, 30), (2, 64, 192)])
def test_orthogonalise_is_the_plain_iteration(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrices[0] = torch.outer(matrices[0, :, 0], matrices[0, 0])  # all singular values but one are zero
    x = matrices.double()
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x @ x.mT @ x + 2.0315 * x @ x.mT @ x @ x.mT @ x
    torch.testing.assert_close(orthogonalise(matrices), x.float(), atol=1e-4, rtol=1e-4)


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
    loaded = load_file(tmp_path / "latest" / "model.safetensors")
    assert {value.dtype for value in loaded.values()} == {torch.bfloat16}
    assert load_base(tmp_path / "latest", ModelSettings()).parameters == model.num_parameters()
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
    exact = sum(
        float(loss.detach()) for loss, _ in batch_losses(FusedTrainingPass(model), model.lm_head, batch, 300, torch.device("cpu"))
    )
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
    def run(out: Path, steps: int, resume: Path | None) -> tuple[Position, dict[str, torch.Tensor]]:
        model = load_model(resume) if resume else new_model(SHAPE)
        stepped = SteppedSampler(store, {}, grid_codec(), SETTINGS, 0)
        settings = LoopSettings(minutes=steps / 60, warmup_steps=1, cooldown=0, checkpoint_minutes=99, validate_minutes=99)
        validation = [next(sampler(store).batches(0, 0))[2]]
        end = train(GridTarget(model), stepped, validation, settings, out, resume, 0, str, lambda: stepped.now)
        return end, model.state_dict()

    end, whole = run(tmp_path / "whole", 12, None)
    first, _ = run(tmp_path / "parts", 6, None)
    last, parts = run(tmp_path / "parts", 6, tmp_path / "parts" / "latest")
    other, _ = run(tmp_path / "other", 11, None)
    assert (end.steps, first.steps, last.steps, other.steps) == (12, 6, 12, 11)
    assert (last.tokens, last.by_source) == (end.tokens, end.by_source)
    assert end.by_source == {"arc1": end.tokens}
    for name in whole:  # weights and data position are exact, momentum is kept in bf16
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=2e-3)


def test_rate_warms_up_holds_and_cools_down() -> None:
    settings = LoopSettings(minutes=1, warmup_steps=10, cooldown=0.5)
    assert rate_factor(0, 0.0, settings) == pytest.approx(0.1)
    assert rate_factor(50, 0.3, settings) == 1.0
    assert rate_factor(50, 0.75, settings) == pytest.approx(0.5)
    assert rate_factor(50, 1.0, settings) == 0.0
    assert rate_factor(500, 1.0, LoopSettings(minutes=1, cooldown=0)) == 1.0


def test_other_codecs_architectures_and_plain_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"codec\.json"):
        load_model(tmp_path)
    (tmp_path / "codec.json").write_text('{"codec": "grid-0"}')
    with pytest.raises(InputError, match=r"grid-0.*grid-1"):
        load_model(tmp_path)
    (tmp_path / "codec.json").write_text('{"codec": "grid-1"}')
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 16}')
    with pytest.raises(InputError, match=r"llama.*qwen3"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "vocab_size": 20}')
    with pytest.raises(InputError, match=r"20 tokens.*16"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not JSON"):
        load_model(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return checkpoint_of(new_model(SHAPE), tmp_path / "out", 20)


def checkpoint_of(model: Any, out: Path, steps: int) -> Path:
    target = GridTarget(model)
    optimizers = target.optimizers(1e-3, 0.0)
    sum(p.sum() for p in target.parameters().values()).backward()  # type: ignore[union-attr]
    for optimizer in optimizers:
        optimizer.step()
    return save_checkpoint(out, target, optimizers, Position(steps=steps))


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of many small tensors in several files."""
    monkeypatch.setattr("solver.pretrain.checkpoint.SHARD_BYTES", 15_000)
    return checkpoint_of(new_model(Shape(hidden=32, layers=12, heads=2, ffn=8)), tmp_path / "wide", 3)


def load_whole(folder: Path) -> None:
    target = GridTarget(load_model(folder))
    load_state(folder, target, target.optimizers(1e-3, 0.0))


@pytest.mark.parametrize("name", ["weights-01.safetensors", "optimizer-00.safetensors", "optimizer-01.safetensors", "state.json"])
def test_a_checkpoint_that_lost_a_file_is_refused(wide: Path, name: str) -> None:
    load_whole(wide)
    (wide / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing: the checkpoint is not whole"):
        load_whole(wide)


def test_files_are_no_larger_than_they_may_be(wide: Path) -> None:
    shards = [*wide.glob("weights-*.safetensors"), *wide.glob("optimizer-*.safetensors")]
    assert len(shards) > 4
    assert max(shard.stat().st_size for shard in shards) <= 15_000


@pytest.mark.parametrize("position", [{"stages": 3}, 7, None])
def test_a_position_that_is_none_is_named(checkpoint: Path, position: Any) -> None:
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(state | {"position": position}))
    with pytest.raises(InputError, match=r"state\.json: not the state of a training: position"):
        load_whole(checkpoint)


def test_a_model_folder_that_lacks_weights_is_refused(checkpoint: Path) -> None:
    for file in (*checkpoint.glob("*-00.safetensors"), checkpoint / "state.json"):
        file.unlink()
    load_model(checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    del weights["decoder.layers.1.mlp.up_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"do not fit config\.json: missing keys: decoder\.layers\.1\.mlp\.up_proj"):
        load_model(checkpoint)


@pytest.mark.parametrize("name", ["weights-00.safetensors", "optimizer-00.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named(checkpoint: Path, name: str) -> None:
    file = checkpoint / name
    file.write_bytes(file.read_bytes()[:-50])

    def load() -> None:
        target = GridTarget(load_model(checkpoint))
        load_state(checkpoint, target, target.optimizers(1e-3, 0.0))

    with pytest.raises(InputError, match=name):
        load()


def test_a_checkpoint_of_another_size_is_refused(checkpoint: Path) -> None:
    state = json.loads((checkpoint / "state.json").read_text())
    state["config"]["intermediate_size"] = 96
    (checkpoint / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="do not fit the configuration"):
        load_model(checkpoint)


def test_the_state_files_alone_are_enough_to_go_on(checkpoint: Path, tmp_path: Path) -> None:
    carried = tmp_path / "carried"
    carried.mkdir()
    for pattern in ("state.json", "weights-*.safetensors", "optimizer-*.safetensors"):  # what .ci/gpu/train.sh copies
        for file in checkpoint.glob(pattern):
            shutil.copy(file, carried)
    assert len(list(carried.iterdir())) == 3
    whole, small = load_model(checkpoint), load_model(carried)
    for name, value in whole.state_dict().items():
        assert torch.equal(small.state_dict()[name], value), name
    target = GridTarget(small)
    optimizers = target.optimizers(1e-3, 0.0)
    position = load_state(carried, target, optimizers)
    assert position is not None
    assert position.steps == 20
    assert all(optimizer.state for optimizer in optimizers)


def test_big_tensors_are_spread_over_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.pretrain.checkpoint.SHARD_BYTES", 20_000)
    model = new_model(SHAPE)
    folder = checkpoint_of(model, tmp_path, 1)
    shards = sorted(folder.glob("weights-*.safetensors"))
    assert len(shards) > 2
    assert max(shard.stat().st_size for shard in shards) < 30_000
    for name, value in load_model(folder).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


@contextmanager
def full_disk(bytes_a_file: int) -> Iterator[None]:
    """Every write beyond so many bytes of a file fails, as on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1000, 60_000])
def test_a_full_disk_leaves_the_checkpoint_before(checkpoint: Path, room: int) -> None:
    out = checkpoint.parent
    content = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    assert max(map(len, content.values())) > room
    for steps in (20, 40):  # of the same name, too
        with full_disk(room), pytest.raises(CheckpointError, match=f"step-00000{steps}"):
            checkpoint_of(new_model(SHAPE, 1), out, steps)
    assert (out / "latest").resolve() == checkpoint.resolve()
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == content
    assert sorted(path.name for path in out.iterdir()) == ["latest", checkpoint.name]
    newer = checkpoint_of(new_model(SHAPE, 1), out, 40)
    assert (out / "latest").resolve() == newer.resolve()


def test_training_goes_on_while_the_disk_is_full(store: PairStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    def save(out: Path, target: PretrainTarget, optimizers: Any, position: Position) -> Path:
        attempts.append(position.steps)
        with full_disk(1000) if len(attempts) < 3 else nullcontext():
            return save_checkpoint(out, target, optimizers, position)

    monkeypatch.setattr("solver.pretrain.loop.save_checkpoint", save)
    lines: list[str] = []
    settings = LoopSettings(minutes=1, warmup_steps=1, checkpoint_minutes=0.25, validate_minutes=9)
    validation = [next(sampler(store, seed=9).batches(0, 0))[2]]
    end = train(GridTarget(new_model(SHAPE)), sampler(store), validation, settings, tmp_path, None, 0, lines.append, ticking(1.0))
    assert len(attempts) > 2
    assert sum("the one before stays" in line for line in lines) == 2
    assert json.loads((tmp_path / "latest" / "state.json").read_text())["position"]["steps"] == end.steps
    attempts.clear()
    with pytest.raises(InputError, match="the one before stays"):
        train(GridTarget(new_model(SHAPE)), sampler(store), validation, LoopSettings(0), tmp_path, None, 0, str, ticking(1.0))
    assert json.loads((tmp_path / "latest" / "state.json").read_text())["position"]["steps"] == end.steps


def test_a_signal_while_the_last_checkpoint_is_written_changes_nothing(
    store: PairStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []  # by the handler that ends the process anywhere but in this test
    before = signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))

    def save(*arguments: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return save_checkpoint(*arguments)

    monkeypatch.setattr("solver.pretrain.loop.save_checkpoint", save)
    validation = [next(sampler(store, seed=9).batches(0, 0))[2]]
    try:
        train(GridTarget(new_model(SHAPE)), sampler(store), validation, LoopSettings(0), tmp_path, None, 0, str, ticking(1.0))
        assert not ended
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "metrics.png").exists()


def test_a_torn_line_of_the_log_costs_itself_alone(store: PairStore, tmp_path: Path) -> None:
    whole = '{"step": 20, "tokens": 100, "loss": 2.5}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole.encode() + b'{"step": 40, "tok' + whole.encode() + b"7\n\xff\n")
    validation = [next(sampler(store, seed=9).batches(0, 0))[2]]
    train(GridTarget(new_model(SHAPE)), sampler(store), validation, LoopSettings(0), tmp_path, None, 0, str, ticking(1.0))
    assert (tmp_path / "latest" / "state.json").exists()
    assert (tmp_path / "metrics.png").read_bytes().startswith(b"\x89PNG")


def test_a_new_training_in_an_old_folder_keeps_its_own_checkpoints(tmp_path: Path) -> None:
    for steps in (5000, 6000):
        checkpoint_of(new_model(SHAPE), tmp_path, steps)
    newest = checkpoint_of(new_model(SHAPE), tmp_path, 10)
    assert (tmp_path / "latest").resolve() == newest.resolve()
    assert len(list(tmp_path.glob("step-*"))) == 2


def test_weights_without_optimizer_state_warm_up_again(store: PairStore, checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.glob("optimizer-*"):
        file.unlink()
    validation = [next(sampler(store, seed=9).batches(0, 0))[2]]
    settings = LoopSettings(minutes=1, warmup_steps=1000, cooldown=0, checkpoint_minutes=9, validate_minutes=9, lr=1.0)
    target = GridTarget(load_model(checkpoint))
    end = train(target, sampler(store), validation, settings, tmp_path / "more", checkpoint, 0, str, ticking(0.5))
    entries = [json.loads(line) for line in (tmp_path / "more" / "metrics.jsonl").read_text().splitlines()]
    rates = [entry["lr"] for entry in entries if "lr" in entry]
    assert end.steps > 40
    assert rates[0] == pytest.approx(0.02, abs=0.001)


def test_the_kind_with_positions_by_index_can_only_be_continued(tmp_path: Path) -> None:
    """New models have cell positions; an older folder goes on as what it is, and no preset makes it the other kind."""
    old = write_plain_qwen3(tmp_path / "old", PRESETS["tiny"])

    def options(resume: Path | None, preset: str | None) -> PretrainOptions:
        return PretrainOptions(tmp_path / "out", None, LoopSettings(minutes=1), preset=preset, resume=resume)

    assert make_target(options(None, "tiny")).model.config.model_type == "cell_decoder"
    assert make_target(options(old, None)).model.config.model_type == "qwen3"
    with pytest.raises(
        InputError, match=r"old: a model of type qwen3; --preset tiny is of type cell_decoder: leave --preset out"
    ):
        make_target(options(old, "tiny"))
    new = checkpoint_of(new_model(PRESETS["tiny"]), tmp_path / "new", 3)
    assert make_target(options(new, "tiny")).model.config.model_type == "cell_decoder"
    with pytest.raises(InputError, match=r"the model is not of the size small: leave --preset out to go on with its own size"):
        make_target(options(new, "small"))
