"""Fits through the public contract, on real tiny models."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from counted_calls import record_calls
from safetensors import SafetensorError

from solver.config import ModelSettings, TrainSettings
from solver.errors import InputError
from solver.model.adapters import apply_adapter
from solver.model.build import Shape, new_model, save_model
from solver.model.cell_decoder import DecoderLayer
from solver.model.load import Base, load_base
from solver.train.lora import LoraTrainer, max_stack
from solver.train.registry import TRAINERS, choose_trainer, make_trainer
from solver.types import NEVER, AdapterRef, Deadline, Fit, FitJob, TokenSequence

SETTINGS = TrainSettings(rank=8, alpha=8, lr=1e-2, batch_sequences=2, batch_tokens=128)
FP32 = ModelSettings(dtype="float32")


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return load_base(tiny_base, FP32)


@pytest.fixture(scope="module")
def loud_base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A random model whose (tied, frozen under LoRA) embeddings are large enough to make confident predictions."""
    model = new_model(Shape(hidden=32, layers=2, heads=2, ffn=64))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(25)
    folder = tmp_path_factory.mktemp("loud")
    save_model(model, folder, torch.float32)
    return load_base(folder, FP32)


def sequences(seed: int, count: int = 6, lengths: tuple[int, int] = (12, 40)) -> tuple[TokenSequence, ...]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        n = int(rng.integers(*lengths))
        weights = np.zeros(n, np.float32)
        weights[n // 3 :] = rng.choice([0.0, 0.5, 1.0], n - n // 3)
        weights[-1] = 1
        made.append(TokenSequence(rng.integers(0, 10, n).astype(np.int32), weights))
    return tuple(made)


def fit_all(base: Base, scratch: Path, jobs: list[FitJob], deadline: Deadline = NEVER, **changes: object) -> list[Fit]:
    """By the trainer of a name; "stack" is "lora" with all jobs in one stack."""
    if changes.get("trainer") == "stack":
        changes |= {"trainer": "lora", "stack": len(jobs)}
    return list(make_trainer(base, SETTINGS.model_copy(update=changes), scratch).fit(jobs, deadline))


def logits(model: torch.nn.Module, seed: int = 0) -> torch.Tensor:
    ids = torch.randint(0, 10, (2, 30), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(ids).logits


class Clock:
    """A clock on which every look costs a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("trainer", ["full", "lora", "stack", "peft"])
def test_a_task_is_memorised_and_the_adapter_serves_it(loud_base: Base, tmp_path: Path, trainer: str) -> None:
    job = FitJob("a", sequences(0, count=2), steps=120)
    base = loud_base
    (fit,) = fit_all(base, tmp_path, [job], trainer=trainer, rank=32, alpha=64.0)
    assert (fit.status, fit.reason, fit.steps) == ("complete", "steps", 120)
    assert fit.first_loss > 2
    assert fit.final_loss < 0.4
    assert fit.adapter is not None
    assert fit.adapter.kind == ("full" if trainer == "full" else "lora")
    model = apply_adapter(base, fit.adapter)
    for sequence in job.sequences:
        with torch.no_grad():
            guesses = model(torch.from_numpy(sequence.ids[None].astype(np.int64))).logits[0].argmax(-1).numpy()
        learnt = np.flatnonzero(sequence.weights)
        assert (guesses[learnt - 1] == sequence.ids[learnt]).mean() > 0.8


@pytest.mark.parametrize("trainer", ["full", "lora", "peft"])
def test_jobs_do_not_see_each_other(base: Base, tmp_path: Path, trainer: str) -> None:
    before = logits(base.model)
    jobs = [FitJob("x", sequences(1), 5, seed=1), FitJob("y", sequences(2), 5, seed=2)]
    _, second = fit_all(base, tmp_path / "both", jobs, trainer=trainer)
    (alone,) = fit_all(base, tmp_path / "alone", jobs[1:], trainer=trainer)
    assert torch.equal(logits(apply_adapter(base, second.adapter)), logits(apply_adapter(base, alone.adapter)))
    assert not torch.allclose(logits(apply_adapter(base, alone.adapter)), before, atol=1e-3)
    assert torch.equal(logits(apply_adapter(base, None)), before)


def test_stacked_equals_alone(base: Base, tmp_path: Path) -> None:
    jobs = [
        FitJob("s", sequences(1), 6, seed=1),
        FitJob("t", sequences(2, count=3), 2, seed=2),  # ends early
        FitJob("u", sequences(3, lengths=(40, 60)), 6, seed=3),
    ]
    stacked = fit_all(base, tmp_path / "stack", jobs, trainer="stack")
    alone = fit_all(base, tmp_path / "alone", jobs, trainer="lora")
    for one, other in zip(stacked, alone, strict=True):
        assert (one.steps, one.tokens, one.status, one.reason) == (other.steps, other.tokens, other.status, other.reason)
        assert one.final_loss == pytest.approx(other.final_loss, abs=1e-4)
        ours, theirs = logits(apply_adapter(base, one.adapter)), logits(apply_adapter(base, other.adapter))
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
    assert not torch.allclose(
        logits(apply_adapter(base, alone[0].adapter)), logits(apply_adapter(base, alone[2].adapter)), atol=0.1
    )


def test_stacks_hold_as_many_tasks_as_the_setting_or_the_device_says(base: Base, tmp_path: Path) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert max_stack(SETTINGS, cpu, 1000, 1000) == 1
    assert max_stack(SETTINGS, cuda, 1000, 1000) == 64
    assert max_stack(SETTINGS, cuda, 2**23, 2**20) == 2**31 // (2**23 * 24) == 10  # by the memory of the adapters
    assert max_stack(SETTINGS, cuda, 1000, 10**8) == 3  # by the work of a task
    assert max_stack(SETTINGS, cuda, 1000, 10**9) == max_stack(SETTINGS, cuda, 2**30, 1000) == 1
    assert max_stack(SETTINGS.model_copy(update={"stack": 3}), cpu, 2**30, 2**30) == 3
    trainer = LoraTrainer(base, SETTINGS.model_copy(update={"stack": 2}), tmp_path)
    fits = trainer.fit([FitJob(name, sequences(1), 2) for name in "abc"], NEVER)
    slots = []
    for fit in fits:
        slots.append(trainer._target.slots)
        assert fit.status == "complete"
    assert slots == [2, 2, 1]


def test_a_fit_equals_plain_peft_and_torch(base: Base, tiny_base: Path, tmp_path: Path) -> None:
    """The reference: PEFT's own layers and adapter loading, a masked forward pass, torch's AdamW and clipping."""
    from peft import LoraConfig, PeftModel, get_peft_model

    job = FitJob("r", sequences(4, count=2), steps=4)
    (fit,) = fit_all(base, tmp_path, [job], trainer="lora", warmup=0.0, cooldown=0.0, weight_decay=0.01)
    assert fit.adapter is not None
    served = PeftModel.from_pretrained(load_base(tiny_base, FP32).model, fit.adapter.path)
    assert torch.allclose(logits(served), logits(apply_adapter(base, fit.adapter)), atol=1e-5)

    (begun,) = fit_all(base, tmp_path / "begun", [replace(job, steps=1)], trainer="lora", lr=1e-12)
    assert begun.adapter is not None
    settings = json.loads((begun.adapter.path / "adapter_config.json").read_text())
    config = LoraConfig(r=settings["r"], lora_alpha=settings["lora_alpha"], target_modules=settings["target_modules"])
    model = get_peft_model(load_base(tiny_base, FP32).model, config)
    model.load_adapter(begun.adapter.path, "default", is_trainable=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=SETTINGS.lr, weight_decay=0.01)
    width = max(map(len, job.sequences))
    ids, weights, mask = (torch.zeros(2, width, dtype=d) for d in (torch.long, torch.float, torch.long))
    for r, s in enumerate(job.sequences):
        ids[r, : len(s)], weights[r, : len(s)], mask[r, : len(s)] = torch.tensor(s.ids), torch.tensor(s.weights), 1
    for _ in range(job.steps):
        predicted = model(ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(predicted, ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, SETTINGS.clip)
        optimizer.step()
    assert fit.final_loss == pytest.approx(loss.item(), abs=1e-4)
    torch.testing.assert_close(logits(model), logits(served), atol=2e-3, rtol=0)


@pytest.mark.parametrize("trainer", ["full", "lora", "stack", "peft"])
def test_refit_goes_on_from_the_start(base: Base, tmp_path: Path, trainer: str) -> None:
    job = FitJob("first", sequences(5, count=2), steps=60)
    (first,) = fit_all(base, tmp_path, [job], trainer=trainer)
    (second,) = fit_all(base, tmp_path, [replace(job, adapter_id="second", steps=2, start=first.adapter)], trainer=trainer)
    assert second.first_loss < first.first_loss - 0.5
    assert second.adapter is not None
    assert second.adapter.path == tmp_path / "second"
    assert first.adapter is not None
    assert first.adapter.path.is_dir()


@pytest.mark.parametrize("trainer", ["full", "lora", "stack", "peft"])
def test_the_deadline_cuts_inside_one_steps_reach(base: Base, tmp_path: Path, trainer: str) -> None:
    clock = Clock()
    deadline = Deadline(60.0, clock)
    jobs = [FitJob("slow", sequences(6, count=2), steps=1000), FitJob("late", sequences(7), steps=1000)]
    cut = fit_all(base, tmp_path, jobs, deadline, trainer=trainer)
    assert [fit.status for fit in cut] == ["cut", "cut"]
    assert cut[0].reason == "deadline"
    assert 0 < cut[0].steps < 60
    assert clock.now < 75
    assert cut[0].adapter is not None
    assert cut[0].adapter.path.is_dir()
    if trainer != "stack":
        assert cut[1].steps == 0
        assert cut[1].adapter is None


def test_a_step_too_long_for_the_deadline_is_given_up_within(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import solver.train.loop as loop

    real, passes = loop.slot_losses, []

    def counted(*arguments):  # type: ignore[no-untyped-def]
        passes.append(1)
        return real(*arguments)

    monkeypatch.setattr(loop, "slot_losses", counted)
    deadline = Deadline(60.0, lambda: 45.0 * len(passes))
    job = FitJob("long", sequences(6, count=8), 5)
    (fit,) = fit_all(base, tmp_path, [job], deadline, trainer="lora", batch_sequences=8, batch_tokens=64)
    assert (fit.status, fit.reason, fit.steps, fit.adapter) == ("cut", "deadline", 0, None)
    assert len(passes) == 2


def test_a_passed_deadline_trains_nothing_and_keeps_the_start(base: Base, tmp_path: Path) -> None:
    (first,) = fit_all(base, tmp_path, [FitJob("f", sequences(8), 1)], trainer="lora")
    (fit,) = fit_all(base, tmp_path, [FitJob("g", sequences(8), 5, start=first.adapter)], Deadline.after(-1), trainer="lora")
    assert (fit.status, fit.steps, fit.adapter) == ("cut", 0, first.adapter)


def poisoned(seed: int) -> tuple[TokenSequence, ...]:
    """Ten batches of two: one of them has a loss that is not a number."""
    good = sequences(seed, count=20)
    bad = TokenSequence(good[0].ids, np.where(good[0].weights > 0, np.nan, 0).astype(np.float32))
    return (*good[:19], bad)


@pytest.mark.parametrize("trainer", ["full", "lora", "stack", "peft"])
def test_nan_stops_one_fit_on_its_last_good_weights(base: Base, tmp_path: Path, trainer: str) -> None:
    jobs = [FitJob("bad", poisoned(9), 10, seed=3), FitJob("good", sequences(10), 10)]
    bad, good = fit_all(base, tmp_path, jobs, trainer=trainer)
    assert (bad.status, bad.reason) == ("failed", "nan")
    assert 0 < bad.steps < 10
    assert bad.adapter is not None
    assert math.isfinite(bad.final_loss)
    assert logits(apply_adapter(base, bad.adapter)).isfinite().all()
    (reference,) = fit_all(base, tmp_path / "alone", jobs[1:], trainer=trainer)
    assert (good.status, good.steps) == ("complete", 10)
    assert good.final_loss == pytest.approx(reference.final_loss, abs=1e-3)


@pytest.mark.parametrize("trainer", ["full", "lora", "peft"])
def test_an_exploding_rate_undoes_the_update_that_did_it(base: Base, tmp_path: Path, trainer: str) -> None:
    (fit,) = fit_all(base, tmp_path, [FitJob("boom", sequences(11), 10)], trainer=trainer, lr=1e38)
    assert (fit.status, fit.reason) == ("failed", "nan")
    assert fit.adapter is None or logits(apply_adapter(base, fit.adapter)).isfinite().all()


def test_out_of_memory_halves_the_batch_once_then_gives_up(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import solver.train.loop as loop

    real, sizes = loop.slot_losses, []

    def small_memory(states, head, batch, *others):  # type: ignore[no-untyped-def]
        sizes.append(batch.ids.numel())
        if batch.ids.numel() > limit:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return real(states, head, batch, *others)

    monkeypatch.setattr(loop, "slot_losses", small_memory)
    job = FitJob("m", sequences(12, lengths=(38, 40)), 3)
    limit = 60
    (fit,) = fit_all(base, tmp_path, [job], trainer="lora", batch_tokens=100)
    assert (fit.status, fit.steps) == ("complete", 3)
    assert max(sizes[1:]) <= 60
    limit = 10
    (fit,) = fit_all(base, tmp_path, [replace(job, adapter_id="n")], trainer="lora")
    assert (fit.status, fit.reason, fit.adapter) == ("failed", "oom", None)


def test_every_fit_starts_at_the_first_loss_scale(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base, ModelSettings(dtype="float16"))
    trainer = LoraTrainer(base, SETTINGS, tmp_path)
    trainer._loop._scale = 1e-30  # a fit before it overflowed all the time; now every gradient would vanish
    job = FitJob("s", sequences(19, count=2), 5)
    (after,) = trainer.fit([job], NEVER)
    (fresh,) = LoraTrainer(base, SETTINGS, tmp_path).fit([job], NEVER)
    assert after.final_loss == pytest.approx(fresh.final_loss, abs=1e-3)
    assert after.final_loss < after.first_loss


@pytest.mark.parametrize(
    ("error", "words"), [(SafetensorError("I/O error: disk full\nmore"), "I/O error: disk full"), (OSError(28, "full"), "full")]
)
def test_an_adapter_that_cannot_be_saved_fails_its_fit_alone(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    trainer = LoraTrainer(base, SETTINGS, tmp_path)

    def save(slot: int, folder: Path) -> None:
        raise error

    monkeypatch.setattr(trainer._loop._target, "save", save)
    (fit,) = trainer.fit([FitJob("d", sequences(20), 2)], NEVER)
    assert (fit.status, fit.reason, fit.adapter) == ("failed", f"cannot save the adapter: {words}", None)


def test_micro_batches_and_checkpointing_change_nothing(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import solver.train.loop as loop

    passes = record_calls(monkeypatch, loop, "slot_losses")
    layers = record_calls(monkeypatch, DecoderLayer, "forward")
    jobs = [FitJob("b", sequences(13), 4)]
    split, checkpointing = {"batch_tokens": 64}, {"checkpointing": True}
    settings = {"whole": {}, "split": split, "checkpointing": checkpointing, "both": split | checkpointing}
    served, passed, computed = {}, {}, {}
    for name, changes in settings.items():
        passes.clear()
        layers.clear()
        (fit,) = fit_all(base, tmp_path / name, jobs, trainer="lora", **({"batch_sequences": 4, "batch_tokens": 4096} | changes))
        passed[name], computed[name] = len(passes), len(layers)
        served[name] = logits(apply_adapter(base, fit.adapter))
    for name in ("split", "checkpointing", "both"):
        torch.testing.assert_close(served[name], served["whole"], atol=2e-3, rtol=0)
    assert passed["whole"] == passed["checkpointing"] == 4  # one a step
    assert passed["split"] == passed["both"] > 4
    assert computed["whole"] == computed["split"] == 0  # the fused pass calls no module of a layer
    for name in ("checkpointing", "both"):  # every layer is computed again in the backward pass
        assert computed[name] == 2 * passed[name] * base.model.config.num_hidden_layers


def test_bad_jobs_fail_alone_with_a_reason(base: Base, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    good = sequences(14)
    unweighted = TokenSequence(good[0].ids, np.zeros_like(good[0].weights))
    jobs = [
        FitJob("none", (), 3),
        FitJob("long", (TokenSequence(np.zeros(9000, np.int32), np.ones(9000, np.float32)),), 3),
        FitJob("alien", (TokenSequence(np.full(9, 77, np.int32), np.ones(9, np.float32)),), 3),
        FitJob("idle", (unweighted,), 3),
        FitJob("start", good, 3, start=AdapterRef("broken", tmp_path / "broken", "lora")),
        FitJob("good", good, 3),
    ]
    for trainer in ("lora", "stack", "peft", "full"):
        fits = fit_all(base, tmp_path / trainer, jobs, trainer=trainer)
        assert [fit.status for fit in fits] == ["failed"] * 5 + ["complete"]
        for fit, words in zip(fits, ["no training", "exceeds the context", "vocabulary", "weight is 0", "broken"], strict=False):
            assert words in fit.reason
            assert "\n" not in fit.reason
            assert fit.adapter is None


@pytest.mark.parametrize(("trainer", "own", "other"), [("full", "full", "lora"), ("stack", "lora", "full")])
def test_a_start_of_another_kind_is_refused_alone(base: Base, tmp_path: Path, trainer: str, own: str, other: str) -> None:
    start = AdapterRef("w0", tmp_path / "w0", other)  # type: ignore[arg-type]
    jobs = [FitJob("w1", sequences(21), 2, start=start), FitJob("good", sequences(21), 2)]
    refused, good = fit_all(base, tmp_path, jobs, trainer=trainer)
    assert (refused.status, good.status) == ("failed", "complete")
    assert refused.reason == f"cannot go on from adapter w0: its kind is {other}, not {own}"


@pytest.mark.parametrize("trainer", ["full", "lora", "stack", "peft"])
def test_global_state_is_left_alone(base: Base, tmp_path: Path, trainer: str) -> None:
    torch.manual_seed(5)
    before, threads, numpy_before = torch.get_rng_state(), torch.get_num_threads(), np.random.get_state()[1].copy()
    fit_all(base, tmp_path, [FitJob("g", sequences(15), 2)], trainer=trainer, dropout=0.1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert (np.random.get_state()[1] == numpy_before).all()
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())


def test_an_nf4_base_is_fitted_with_lora(tmp_path: Path) -> None:
    save_model(new_model(Shape(hidden=64, layers=2, heads=1, ffn=128)), tmp_path / "base", torch.float32)
    base = load_base(tmp_path / "base", ModelSettings(dtype="float32", quantization="nf4"))
    before = logits(base.model)
    (fit,) = fit_all(base, tmp_path, [FitJob("q", sequences(16, count=2), 60)])
    assert fit.adapter is not None
    assert fit.adapter.kind == "lora"
    assert fit.final_loss < fit.first_loss - 0.3
    assert not torch.allclose(logits(apply_adapter(base, fit.adapter)), before, atol=1e-2)
    assert torch.equal(logits(base.model), before)
    with pytest.raises(InputError, match="quantised"):
        TRAINERS["full"](base, SETTINGS, tmp_path)


@pytest.mark.parametrize("trainer", ["full", "lora", "stack", "peft"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_bases_keep_fp32_adapters(tiny_base: Path, tmp_path: Path, trainer: str, dtype: str) -> None:
    base = load_base(tiny_base, ModelSettings(dtype=dtype))  # type: ignore[arg-type]
    jobs = [FitJob("h", sequences(17, count=2), 20), FitJob("i", sequences(18, count=2), 20)]
    for fit in fit_all(base, tmp_path, jobs, trainer=trainer):
        assert fit.status == "complete"
        assert fit.final_loss < fit.first_loss - 0.1
        assert fit.adapter is not None
        assert logits(apply_adapter(base, fit.adapter)).dtype == base.dtype


def test_auto_takes_lora_for_the_package_s_own_models_and_says_why(base: Base) -> None:
    name, why = choose_trainer(base, SETTINGS)
    assert name == "lora"
    assert "own kind" in why
    assert choose_trainer(base, SETTINGS.model_copy(update={"trainer": "lora"})) == ("lora", "set by train.trainer")


def test_auto_fits_many_tasks_at_once_on_a_gpu_while_one_does_not_fill_it(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    import solver.train.lora as lora

    other = replace(base, codec=object(), device=torch.device("cuda"))  # type: ignore[arg-type]
    monkeypatch.setattr(lora, "FILLING_WEIGHTS", 3 * base.parameters)
    name, why = choose_trainer(other, SETTINGS)
    assert name == "lora"
    assert "up to 3 tasks share a step" in why
    assert choose_trainer(replace(other, quantized=True), SETTINGS)[0] != "lora"
    assert choose_trainer(replace(other, device=torch.device("cpu")), SETTINGS)[0] == "peft"
    assert choose_trainer(other, SETTINGS.model_copy(update={"stack": 1}))[0] != "lora"
    monkeypatch.setattr(lora, "FILLING_WEIGHTS", base.parameters)
    assert choose_trainer(other, SETTINGS)[0] != "lora"
