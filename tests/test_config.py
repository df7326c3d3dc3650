"""Settings: layers, overrides, and one line for whatever is unknown or out of range."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from solver.arc.selection import RULES
from solver.config import Settings, load_settings, parse_duration, preset_names
from solver.errors import InputError


def refusal(*overrides: str, machine: str | None = None, recipe: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load_settings(machine, recipe, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_need_no_preset() -> None:
    assert load_settings() == Settings()


def test_overrides_of_every_type() -> None:
    found = load_settings(
        overrides=[
            "seed=7",
            "train.lr=3e-4",
            "model.dtype=bfloat16",
            'model.device="cuda:1"',
            "infer.grammar=false",
            'infer.views.transforms=["identity", "rot90"]',
            "train.steps=none",
            "train.epochs=2",
            "data.augmenters=['translate', 'rot90+double_width']",
        ]
    )
    assert (found.seed, found.train.lr, found.model.dtype, found.model.device) == (7, 3e-4, "bfloat16", "cuda:1")
    assert found.infer.grammar is False
    assert found.infer.views.transforms == ("identity", "rot90")
    assert found.train.steps is None
    assert found.train.epochs == 2
    assert found.data.augmenters == ("translate", "rot90+double_width")


def leaves(tree: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every setting that is not a group of settings: its dotted name and its type."""
    for name, field in tree.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def value_of(settings: Settings, name: str) -> object:
    return functools.reduce(getattr, name.split("."), settings)


LEAVES = dict(leaves(Settings))
NULLABLE = sorted(name for name, kind in LEAVES.items() if type(None) in get_args(kind))
TEXTS = {"model.quantization", "model.device", "train.trainer"}  # settings that take the word "none" as a text


@pytest.mark.parametrize("name", NULLABLE)
def test_none_clears_every_setting_that_allows_it(name: str) -> None:
    (kind,) = (kind for kind in get_args(LEAVES[name]) if kind is not type(None))
    value = {int: "2", float: "0.5", bool: "true", Path: "profile.json"}[kind]
    length = ["train.epochs=3"] if name == "train.steps" else []  # a fit needs steps or epochs
    assert value_of(load_settings(overrides=[f"{name}={value}"]), name) is not None
    assert value_of(load_settings(overrides=[f"{name}={value}", *length, f"{name}=none"]), name) is None


@pytest.mark.parametrize("name", sorted(LEAVES.keys() - NULLABLE))
def test_none_is_refused_by_every_setting_that_does_not_allow_it(name: str) -> None:
    if name in TEXTS:
        assert value_of(load_settings(overrides=[f"{name}=none"]), name) == "none"
    else:
        assert refusal(f"{name}=none").startswith(f"setting {name}: ")


def test_a_run_needs_a_network_or_programs() -> None:
    assert not load_settings(recipe="programs").network
    assert load_settings(overrides=["programs.enabled=false"]).network
    assert "leaves nothing" in refusal("programs.enabled=false", recipe="programs")


def test_the_settings_that_allow_none_include_the_learning_rate_and_not_the_rank() -> None:
    assert {"train.lr", "budget.profile", "infer.views.count"} <= set(NULLABLE)
    assert "train.rank" not in NULLABLE


def test_later_overrides_win_and_leave_the_rest() -> None:
    found = load_settings(overrides=["train.rank=8", "train.alpha=4", "train.rank=64"])
    assert found.train == Settings().train.model_copy(update={"rank": 64, "alpha": 4.0})


def test_steps_and_epochs_clear_what_an_earlier_layer_gave_the_other() -> None:
    def length(*overrides: str, recipe: str | None = "mit") -> tuple[int | None, float | None]:
        train = load_settings(recipe=recipe, overrides=overrides).train
        return train.steps, train.epochs

    assert length()[1] == 2
    assert length("train.steps=20") == (20, None)
    assert length("train.steps=20", "train.epochs=3") == (None, 3)
    assert length("train.epochs=3", "train.steps=20", recipe=None) == (20, None)
    assert length("train.steps=20", "train.epochs=none") == (20, None)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_can_be_chosen(rule: str) -> None:
    assert load_settings(overrides=[f"select.rule={rule}"]).select.rule == rule


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.rnak=8", "setting train.rnak: unknown setting"),
        ("trian.rank=8", "setting trian: unknown setting"),
        ("sede=1", "setting sede: unknown setting"),
        ("train.rank=0", "setting train.rank: "),
        ("train.rank=eight", "setting train.rank: "),
        ("train=5", "setting train: "),
        ("seed=-1", "setting seed: "),
        ("model.dtype=float8", "setting model.dtype: "),
        ("infer.min_prob=1", "setting infer.min_prob: "),
        ("data.transforms=[]", "setting data.transforms: "),
        ("infer.views.transforms=['spin']", "setting infer.views.transforms.0: "),
        ("data.augmenters=['spin']", "setting data.augmenters: unknown augmenter 'spin'; there are: rot90"),
        ("select.rule=best", "setting select.rule: unknown rule 'best'; there are: flat_vote"),
        ("select.rule=verifier", "setting select.rule: runs do not load a verifier"),
        ("train.rank", "--set train.rank: write it as key=value"),
        ("=3", "--set =3: write it as key=value"),
    ],
)
def test_bad_overrides_name_the_setting(override: str, message: str) -> None:
    assert refusal(override).startswith(message)


def test_unknown_presets_list_the_known() -> None:
    assert refusal(machine="abacus") == f"unknown machine 'abacus'; there are: {', '.join(preset_names('machines'))}"
    assert refusal(recipe="soup") == f"unknown recipe 'soup'; there are: {', '.join(preset_names('recipes'))}"
    assert "../recipes/mit" not in preset_names("machines")
    assert "unknown machine" in refusal(machine="../recipes/mit")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("11h30m", 41400), ("1h1m1s", 3661), ("1.5m", 90), ("45", 45), ("0.5", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 m", "5x", "-5m", "5m-", "0", "0s", "1h 30m", "m5", "1e3", "nan", "inf", "5mm"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InputError, match="duration"):
        parse_duration(text)


def test_budgets_of_years_are_refused() -> None:
    assert parse_duration("8784h") == 366 * 86400
    with pytest.raises(InputError, match="longer than a year"):
        parse_duration("99999999999h")


def test_a_former_name_of_a_trainer_says_the_new_one() -> None:
    assert refusal("train.trainer=stacked").startswith("setting train.trainer: 'stacked' is called 'lora' now, and train.stack")
