"""Experiments as data: an arm differs from the one that it is compared with in exactly one setting."""

from __future__ import annotations

import pytest

from solver.errors import InputError
from solver.experiments.arms import Arm, ArmTable, Circumstances, Experiment, differences
from solver.experiments.pretrainings import REFERENCE, DataArm, data_arms, data_table
from solver.experiments.published import EXPERIMENTS, NO_TTT, TTT, Scale, sweep

SCALES = [Scale(parameters, small) for parameters in (6_800_000, 19_000_000, 1_200_000_000) for small in (False, True)]
EVERY = [experiment(scale) for experiment in EXPERIMENTS.values() for scale in SCALES]
TABLES = [table for experiment in EVERY for table in experiment.tables]
ARMS = [(table, arm) for table in (*TABLES, data_table(True), data_table(False)) for arm in table.arms]


def arms_of(experiment: Experiment) -> dict[str, Arm]:
    return {arm.name: arm for table in experiment.tables for arm in table.arms}


@pytest.mark.parametrize(("table", "arm"), ARMS, ids=[f"{number}-{arm.name}" for number, (_, arm) in enumerate(ARMS)])
@pytest.mark.parametrize("overrides", [(), ("model.context=4096",)])
def test_an_arm_differs_in_exactly_one_setting(table: ArmTable, arm: Arm, overrides: tuple[str, ...]) -> None:
    circumstances = Circumstances("cpu", overrides)
    settings = circumstances.settings(table, arm, 3)
    assert settings.seed == 3
    if not arm.against:
        return
    other = circumstances.settings(table, table.arm(arm.against), 3)
    assert differences(other, settings) == ([arm.change.partition("=")[0]] if arm.change else [])
    assert bool(arm.change) != arm.oracle


def test_the_arms_of_the_publications_are_there() -> None:
    mit = arms_of(EXPERIMENTS["mit"](SCALES[0]))
    changed = {arm.change for arm in mit.values()}
    assert {
        "budget.fixed_waves=[0]",
        'data.scheme="e2e"',
        "data.augment=false",
        "train.shared=true",
        "data.loss_on_demonstrations=false",
        'model.quantization="nf4"',
        'data.scheme="n-2"',
        "infer.permutations=1",
        'select.rule="flat_vote"',
        'infer.views.transforms=["transpose"]',
    } <= changed
    assert sum(change.startswith("infer.views.transforms") for change in changed) == 8
    assert [arm.name for arm in mit.values() if arm.oracle] == ["oracle: any candidate"]
    report = arms_of(EXPERIMENTS["report"](SCALES[0]))
    assert set(report) >= {TTT, NO_TTT, "no augmentation at inference", "rotations alone", "transpose alone", "flips alone"}
    ironbar = arms_of(EXPERIMENTS["ironbar"](SCALES[0]))
    assert {arm.source for arm in ironbar.values()} >= {"6.5 %", "7.2 %", "16.8 %", "no gain"}
    assert {'data.scheme="n-2"', "data.original_colours=0.2", 'data.colours="keep"'} <= {arm.change for arm in ironbar.values()}


@pytest.mark.parametrize("scale", SCALES)
def test_batches_are_compared_at_equal_tokens(scale: Scale) -> None:
    table = EXPERIMENTS["ironbar"](scale).tables[1]
    for arm in table.arms:
        settings = Circumstances().settings(table, arm, 0)
        assert settings.train.epochs == 1
        assert settings.data.max_sequences % settings.train.batch_sequences == 0


def test_the_weakest_of_several_is_among_the_arms() -> None:
    for table in TABLES:
        if table.lowest is not None:
            assert {*table.lowest.among, table.lowest.arm} <= {arm.name for arm in table.arms}


@pytest.mark.parametrize("override", ["budget.policy=adaptive", "programs.enabled=true", "budget.fixed_waves=[10,20]"])
def test_settings_that_no_arm_can_be_compared_under_are_refused(override: str) -> None:
    table = EXPERIMENTS["mit"](SCALES[0]).tables[0]
    with pytest.raises(InputError, match="policy fixed"):
        Circumstances(overrides=(override,)).settings(table, table.arms[0], 0)


def test_a_table_without_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        ArmTable("t", "T", "default", (Arm("a"), Arm("a")))
    with pytest.raises(ValueError, match="before it"):
        ArmTable("t", "T", "default", (Arm("b", "train.rank=2", "a"), Arm("a")))


def test_a_sweep_compares_with_the_recipe() -> None:
    (table,) = sweep(("train.lr=1e-3", "train.rank=8"), "mit").tables
    assert [(arm.change, arm.against) for arm in table.arms] == [("", ""), ("train.lr=1e-3", "mit"), ("train.rank=8", "mit")]
    for arms in ((), ("train.lr=1e-3", "train.lr=1e-3")):
        with pytest.raises(InputError, match="--arm"):
            sweep(arms, "mit")


@pytest.mark.parametrize("arm", data_arms(("rearc", "mine")), ids=lambda arm: arm.name)
def test_a_choice_of_data_differs_from_the_reference_in_one_field(arm: DataArm) -> None:
    reference = next(one for one in data_arms() if one.name == REFERENCE).choice
    apart = [name for name, value in vars(arm.choice).items() if value != getattr(reference, name)]
    assert len(apart) == (0 if arm.name == REFERENCE else 1)
