"""Every shipped preset loads, names things that exist, and says where its numbers come from."""

from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from solver.arc.augment import augmenter
from solver.arc.selection import RULES
from solver.config import Settings, load_settings, preset_names

Kind = Literal["machines", "recipes"]
PRESETS: list[tuple[Kind, str]] = [("machines", n) for n in preset_names("machines")] + [
    ("recipes", n) for n in preset_names("recipes")
]


def load(kind: Kind, name: str) -> Settings:
    return load_settings(machine=name) if kind == "machines" else load_settings(recipe=name)


def test_the_promised_presets_are_there() -> None:
    assert set(preset_names("machines")) >= {"cpu", "h200", "kaggle-l4x4", "kaggle-t4x2"}
    assert set(preset_names("recipes")) >= {"architects", "default", "ironbar", "mit", "nvarc"}


@pytest.mark.parametrize(("kind", "name"), PRESETS)
def test_preset_loads_and_names_what_exists(kind: Kind, name: str) -> None:
    settings = load(kind, name)
    assert settings.select.rule in RULES
    for augmenter_name in settings.data.augmenters:
        assert augmenter(augmenter_name)(np.random.default_rng(0))(np.zeros((2, 3), np.uint8)).ndim == 2


@pytest.mark.parametrize(("kind", "name"), PRESETS)
def test_preset_opens_with_a_comment(kind: Kind, name: str) -> None:
    assert Path(str(resources.files("solver").joinpath(kind, f"{name}.toml"))).read_text().startswith("# ")


@pytest.mark.parametrize("name", [n for n in preset_names("recipes") if n != "default"])
def test_published_recipes_differ_from_the_default(name: str) -> None:
    assert load_settings(recipe=name) != load_settings(recipe="default")


@pytest.mark.parametrize("name", ["kaggle-t4x2", "kaggle-l4x4"])
def test_one_bad_task_never_costs_a_kaggle_submission(name: str) -> None:
    assert load_settings(machine=name).input.on_bad_task == "fallback"


def test_recipe_wins_over_machine_and_set_over_both() -> None:
    assert load_settings("kaggle-l4x4", "nvarc").train.rank == 256
    assert load_settings("kaggle-t4x2", "nvarc").model.dtype == "bfloat16"
    assert load_settings("kaggle-t4x2", "nvarc", ["model.dtype=float16"]).model.dtype == "float16"
