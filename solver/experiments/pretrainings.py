"""The effect of fine-tuning data: small models that are trained on different data, for the same steps, and then compared.

A training is a process of its own. One that was interrupted begins anew, so that every model is a function of its options.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from solver.child_process import die_with
from solver.errors import InputError
from solver.experiments.arms import Arm, ArmTable
from solver.experiments.published import MIT, NO_TTT, TTT

Report = Callable[[str], None]
REFERENCE = "all data, transforms of both sides"
CORPUS = "corpus"  # the folder of packed corpora, which all trainings read
_UNLIMITED = 365.0 * 24 * 60  # minutes: the steps end a training


@dataclass(frozen=True)
class DataChoice:
    """What a model is trained on. The defaults are those of the reference."""

    sides: tuple[str, ...] = ("both",)  # what the view of a sequence changes: see `pretrain.sampler`
    output_transform: float = 0.0
    left_out: tuple[str, ...] = ()  # sources of the usual mixture


@dataclass(frozen=True)
class DataArm:
    """A model to train. It differs from the reference in one field of its choice."""

    name: str
    choice: DataChoice


@dataclass(frozen=True)
class Training:
    """What is the same for all models of an experiment."""

    preset: str = "tiny"
    steps: int = 300
    batch_tokens: int = 4096
    max_tokens: int = 1024
    corpus: Path | None = None
    device: str = "cpu"
    seed: int = 0


def data_arms(corpora: tuple[str, ...] = ()) -> tuple[DataArm, ...]:
    """The reference, then one change at a time. `corpora` are the sources of a corpus folder, each of which is left out once."""
    reference = DataChoice()
    sources = (("procedural families", ("procedural",)), ("the ARC-AGI training sets", ("arc1", "arc2")))
    return (
        DataArm(REFERENCE, reference),
        DataArm("transforms of the input", replace(reference, sides=("input",))),
        DataArm("transforms of the output", replace(reference, sides=("output",))),
        DataArm("transforms of both, input or output", replace(reference, sides=("both", "input", "output"))),
        DataArm("another transform of one output in ten", replace(reference, output_transform=0.1)),
        *(DataArm(f"without {name}", replace(reference, left_out=left_out)) for name, left_out in sources),
        *(DataArm(f"without {name}", replace(reference, left_out=(name,))) for name in corpora),
    )


def data_table(small: bool) -> ArmTable:
    """How each model is measured: with the default recipe."""
    steps = ("train.steps=10", "infer.score=false", 'select.rule="flat_vote"') if small else ()
    return ArmTable(
        name="data",
        title="Fine-tuning data before test-time training",
        recipe="default",
        base=steps,
        losses=True,
        arms=(Arm(NO_TTT, "budget.fixed_waves=[0]"), Arm(TTT)),
        note=f"Source of the question: {MIT}, which compares corpora and transforms before test-time training. "
        "Here every model is new and small: it shows what the data is worth to a model that has seen nothing else.",
    )


def train(arm: DataArm, training: Training, out: Path, report: Report) -> Path:
    """The folder of the trained model, which is trained unless it is there. Raises InputError if the training fails."""
    name = hashlib.sha256(repr((asdict(arm.choice), asdict(training))).encode()).hexdigest()[:12]
    folder = out / "models" / name
    if (folder / "latest").is_dir():
        return folder / "latest"
    partial = folder.with_name(f"{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for packed in (out / CORPUS).glob("corpus-*.npz"):
        shutil.copyfile(packed, partial / packed.name)
    process = multiprocessing.get_context("spawn").Process(
        target=_train, args=(arm.choice, training, partial, os.getpid()), daemon=True
    )
    report(f"training: {arm.name}, {training.steps} steps")
    process.start()
    process.join()
    if process.exitcode or not (partial / "latest").is_dir():
        raise InputError(f"the training of {arm.name!r} failed (exit code {process.exitcode})")
    partial.rename(folder)
    return folder / "latest"


def _train(choice: DataChoice, training: Training, out: Path, parent: int) -> None:
    """The body of the training process."""
    die_with(parent)
    from solver.pretrain.command import MIXTURE, PretrainOptions, pretrain
    from solver.pretrain.loop import LoopSettings
    from solver.pretrain.sampler import SamplerSettings, parse_sides

    sampler = SamplerSettings(
        batch_tokens=training.batch_tokens,
        max_tokens=training.max_tokens,
        sides=parse_sides(",".join(choice.sides)),
        output_transform=choice.output_transform,
    )
    options = PretrainOptions(
        out=out,
        corpus=training.corpus,
        loop=LoopSettings(minutes=_UNLIMITED, steps=training.steps),
        preset=training.preset,
        seed=training.seed,
        device=training.device,
        sampler=sampler,
        mixture={**MIXTURE, **dict.fromkeys(choice.left_out, 0.0)},
    )
    pretrain(options, lambda line: print(line, flush=True))


def sources_of(corpus: Path | None, cache: Path, report: Report) -> tuple[str, ...]:
    """The names of the sources in a corpus folder. Raises InputError."""
    if corpus is None:
        return ()
    from solver.pretrain.command import ARC_SETS, evaluation_guard, load_store

    store = load_store(corpus, cache, evaluation_guard(), report)
    return tuple(sorted(set(store.sources) - set(ARC_SETS)))
