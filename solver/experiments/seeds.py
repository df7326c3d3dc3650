"""The experiments of three published works, as tables of arms. What the works report is stated beside each arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from solver.arc.view import Transform
from solver.errors import InputError
from solver.experiments.arms import Arm, ArmTable, Experiment, Lowest
from solver.train.schedule import TINY, peak_lr

MIT = "Akyurek et al. 2024 (arXiv 2411.07279)"
IRONBAR = "Barbadillo (ironbar) 2024, ARC24"
SMALL_SEQUENCES = 40  # training sequences a task in the small form
USUAL_SEQUENCES = 120  # the same for models below TINY weights, otherwise those of the recipe
TTT, NO_TTT = "test-time training", "no test-time training"


@dataclass(frozen=True)
class Scale:
    """What an experiment is adjusted to: the weights of the model, and whether its small form is asked for."""

    parameters: int
    small: bool = False

    @property
    def tiny(self) -> bool:
        """Whether the model is far smaller than those the recipes were made for."""
        return self.parameters < TINY

    @property
    def lr(self) -> str:
        """The peak learning rate for a tiny model, as a setting."""
        return f"train.lr={peak_lr(None, self.parameters):g}"


def mit(scale: Scale) -> Experiment:
    """What each part of test-time training and of augmented inference is worth."""
    training = ArmTable(
        name="mit-training",
        title="Test-time training, one thing changed at a time",
        recipe="mit",
        base=_mit_base(scale),
        note="Source: 80 tasks of ARC-AGI-1's evaluation set, a model of 1 billion weights, 29 tasks solved after training.",
        arms=(
            Arm(TTT, source="29 of 80"),
            Arm(NO_TTT, "budget.fixed_waves=[0]", TTT, source="fewer", effect="lower"),
            Arm("direct input-output data (E2E)", 'data.scheme="e2e"', TTT, source="-11: 18 of 80", effect="lower"),
            Arm("no transforms in training", "data.augment=false", TTT, source="-16: 13 of 80", effect="lower"),
            Arm("one shared adapter", "train.shared=true", TTT, source="-7: 22 of 80", effect="lower"),
            Arm("no loss on demonstrations", "data.loss_on_demonstrations=false", TTT, source="26 of 80", effect="lower"),
            Arm("QLoRA (NF4)", 'model.quantization="nf4"', TTT, source="26 of 80", effect="lower"),
            Arm("leave-two-out data alone", 'data.scheme="n-2"', TTT),
        ),
    )
    return Experiment("mit", "Test-time training for few-shot learning", MIT, (training, _mit_inference(scale)))


def _mit_inference(scale: Scale) -> ArmTable:
    singles = tuple(
        Arm(
            f"{name} alone",
            f'infer.views.transforms=["{name}"]',
            TTT,
            source={"identity": "below the hierarchical vote", "transpose": "the weakest single transform"}.get(name, ""),
            effect="lower",
        )
        for name in get_args(Transform)
    )
    return ArmTable(
        name="mit-inference",
        title="Augmented inference and the vote",
        recipe="mit",
        base=_mit_base(scale),
        note="All arms use the same fits and the same answers: they leave out views, or vote otherwise. Source: the vote in two "
        "stages is above the flat vote, transpose is the weakest single transform, the oracle is above every vote.",
        arms=(
            Arm(TTT, source="hierarchical vote over all transforms"),
            Arm("flat vote", 'select.rule="flat_vote"', TTT, source="below the hierarchical vote", effect="lower"),
            Arm("no permutations at inference", "infer.permutations=1", TTT),
            *singles,
            Arm("oracle: any candidate", against=TTT, oracle=True, source="above every vote", effect="higher"),
        ),
        lowest=Lowest(tuple(arm.name for arm in singles), "transpose alone", "single transform"),
    )


def report(scale: Scale) -> Experiment:
    """What test-time training and augmented inference are worth to models of several sizes."""
    table = ArmTable(
        name="report",
        title="Models of several sizes, with and without test-time training and augmentation at inference",
        recipe="mit",
        base=_mit_base(scale),
        note="Akyurek et al. report that test-time training raises the score of every model, and that the vote over all "
        "transforms is above single ones. The numbers of the reproduction of their code are of other models, and are not stated "
        "here.",
        arms=(
            Arm(TTT),
            Arm(NO_TTT, "budget.fixed_waves=[0]", TTT, effect="lower"),
            Arm("no augmentation at inference", "infer.views.count=1", TTT, effect="lower"),
            Arm("rotations alone", 'infer.views.transforms=["rot90","rot180","rot270"]', TTT, effect="lower"),
            Arm("transpose alone", 'infer.views.transforms=["transpose"]', TTT, effect="lower"),
            Arm("flips alone", 'infer.views.transforms=["flip_lr","flip_ud"]', TTT, effect="lower"),
        ),
    )
    return Experiment("report", "The reproduction of the MIT code", MIT, (table,))


def ironbar(scale: Scale) -> Experiment:
    """What each step from a fine-tuned model to n-1 data with colour swaps is worth; batch size and rate at equal tokens."""
    full, geometric, plain = "n-1, geometric, colour swap", "n-1, geometric", "n-1"
    note = "Source: 6.5 % of test inputs without test-time training, 7.2 % with n-1, 16.8 % at the end; n-2 and original colours "
    note += "bring nothing."
    ladder = ArmTable(
        name="ironbar-data",
        title="Data for test-time training, one thing taken away or changed at a time",
        recipe="ironbar",
        base=_ironbar_base(scale),
        losses=True,
        note=note,
        arms=(
            Arm(full, source="16.8 %"),
            Arm(geometric, 'data.colours="keep"', full, source="between 7.2 % and 16.8 %", effect="lower"),
            Arm(plain, 'data.transforms=["identity"]', geometric, source="7.2 %", effect="lower"),
            Arm(NO_TTT, "budget.fixed_waves=[0]", plain, source="6.5 %", effect="lower"),
            Arm("one in five keeps its colours", "data.original_colours=0.2", full, source="no gain", effect="same"),
            Arm("n-2", 'data.scheme="n-2"', full, source="no gain", effect="same"),
        ),
    )
    usual, rate = (4, peak_lr(None, scale.parameters)) if scale.tiny else (16, 1e-4)
    sequences = max(SMALL_SEQUENCES, 4 * usual) if scale.small else (2 * USUAL_SEQUENCES if scale.tiny else 960)
    equal = ArmTable(
        name="ironbar-batch",
        title="Batch size and learning rate at equal tokens: one epoch over the same sequences",
        recipe="ironbar",
        base=(
            *(one for one in _ironbar_base(scale) if not one.startswith("train.steps")),
            "train.epochs=1",
            f"data.max_sequences={sequences}",
            f"train.batch_sequences={usual}",
        ),
        losses=True,
        note="The source compared both on its own validation set; its numbers are of another scale and are not stated here.",
        arms=(
            Arm(usual_name := f"batch of {usual}, rate {rate:g}"),
            *(Arm(f"batch of {size}", f"train.batch_sequences={size}", usual_name) for size in (usual // 2, 2 * usual)),
            *(Arm(f"rate {factor * rate:g}", f"train.lr={factor * rate:g}", usual_name) for factor in (0.5, 2.0)),
        ),
    )
    return Experiment("ironbar", "Test-time fine-tuning on n-1 data", IRONBAR, (ladder, equal))


def sweep(changes: Sequence[str], recipe: str) -> Experiment:
    """Settings of the user's choice, each compared with the recipe. Raises InputError if there is none, or one twice."""
    if not changes or len(set(changes)) < len(changes):
        raise InputError("a sweep needs arms, each a different one: --arm KEY=VALUE")
    arms = (Arm(recipe), *(Arm(change, change, recipe) for change in changes))
    table = ArmTable(name="sweep", title=f"Settings compared with the recipe {recipe}", recipe=recipe, arms=arms, losses=True)
    return Experiment("sweep", "A comparison of settings", "no publication", (table,))


EXPERIMENTS: Mapping[str, Callable[[Scale], Experiment]] = {"mit": mit, "report": report, "ironbar": ironbar}


def _mit_base(scale: Scale) -> tuple[str, ...]:
    """Changes of the recipe, which was made for models of 1 to 8 billion weights: about as many steps as the default recipe."""
    sequences = SMALL_SEQUENCES if scale.small else USUAL_SEQUENCES
    if scale.tiny:
        return (scale.lr, "train.rank=32", "train.batch_sequences=4", f"data.max_sequences={sequences}")
    return (f"data.max_sequences={sequences}",) if scale.small else ()


def _ironbar_base(scale: Scale) -> tuple[str, ...]:
    """Changes of the recipe, which was made for a model of half a billion weights."""
    steps = ("train.steps=20",) if scale.small else ()
    if scale.tiny:
        return (scale.lr, "train.rank=32", "train.rslora=false", "train.batch_sequences=4", "infer.permutations=1", *steps)
    return steps
