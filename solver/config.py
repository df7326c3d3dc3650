"""The settings of a run: one frozen tree, unknown keys are errors.

Layers, later ones win: defaults, the machine preset (machines/NAME.toml), the recipe preset (recipes/NAME.toml),
`--set key=value`. Presets hold any subset of the tree.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from solver.arc.augment import augmenter
from solver.arc.selection import RULES
from solver.arc.view import TRANSFORMS, ColourMode, Transform
from solver.errors import InputError


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSettings(_Settings):
    """How task files are read."""

    on_bad_task: Literal["error", "fallback"] = "error"


class ModelSettings(_Settings):
    """The base model and how it is loaded."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bf16 where this device multiplies it faster
    quantization: Literal["none", "nf4"] = "none"
    format: Literal["auto", "text", "nvarc", "architects"] = "auto"  # of prompts; auto: format.json of the model, else text
    context: int = Field(8192, ge=64)  # tokens; longer prompts lose demonstrations
    device: str = "auto"
    threads: int = Field(0, ge=0)  # 0: all cores, fewer while other programs keep them busy


class DataSettings(_Settings):
    """TTT examples made from the demonstrations of a task."""

    scheme: Literal["loo", "e2e", "n-1", "n-2"] = "n-1"
    max_sequences: int = Field(250, ge=1)
    transforms: tuple[Transform, ...] = Field(TRANSFORMS, min_length=1)
    colours: ColourMode = "permute_nonzero"
    shuffle: bool = True  # permute the demonstrations
    augmenters: tuple[str, ...] = ()  # names of arc.augment.AUGMENTERS, chains joined by "+"; on top of transforms
    loss_on_demonstrations: bool = True  # every output after the first shown
    loss_on_answer: bool = True

    @field_validator("augmenters")
    @classmethod
    def _known_augmenters(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            augmenter(name)
        return names


class TrainSettings(_Settings):
    """How adapters are fitted."""

    trainer: Literal["auto", "lora", "peft", "full", "unsloth"] = "auto"
    stack: int | None = Field(None, ge=1)  # most tasks that one step of "lora" advances; none: 1 on a processor, else by memory
    shared: bool = False  # one adapter for all tasks, fitted first; tasks then infer with it
    rank: int = Field(32, ge=1)
    alpha: float = Field(16.0, gt=0)
    rslora: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    lr: float | None = Field(None, gt=0)  # peak; none: by the size of the model (train.schedule)
    warmup: float = Field(0.1, ge=0, le=1)  # share of the steps
    cooldown: float = Field(0.3, ge=0, le=1)  # share of the steps, linear to zero
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)  # gradient norm
    batch_sequences: int = Field(4, ge=1)
    batch_tokens: int = Field(16384, ge=64)  # padded tokens a forward pass may hold; more are accumulated
    checkpointing: bool = False  # gradient checkpointing
    steps: int | None = Field(60, ge=0)  # optimizer steps per task under the fixed policy
    epochs: float | None = Field(None, gt=0)  # instead of steps: passes over the task's sequences

    @field_validator("trainer", mode="before")
    @classmethod
    def _no_former_name(cls, name: Any) -> Any:
        if name == "stacked":
            raise ValueError("'stacked' is called 'lora' now, and train.stack says how many tasks a step advances")
        return name

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise ValueError("neither steps nor epochs say how long to train")
        return self


class ViewSettings(_Settings):
    """The views a query is asked under."""

    transforms: tuple[Transform, ...] = Field(TRANSFORMS, min_length=1)
    colours: ColourMode = "permute"
    shuffle: bool = True  # permute the demonstrations
    keep_identity: bool = True  # the first draw of each transform keeps colours and order
    count: int | None = Field(None, ge=1)  # at most so many; none: every transform times `infer.permutations`


class InferSettings(_Settings):
    """How answers are produced."""

    engine: Literal["auto", "vllm", "hf"] = "auto"
    mode: Literal["greedy", "sample", "search"] = "greedy"
    views: ViewSettings = ViewSettings()
    permutations: int = Field(1, ge=1)  # colour and order draws per transform
    samples: int = Field(1, ge=1)  # per view, mode "sample"
    temperature: float = Field(1.0, gt=0)  # mode "sample"
    min_prob: float = Field(0.1, gt=0, lt=1)  # mode "search"
    grammar: bool = True  # only grids can be written
    score: bool = True  # score candidates under every view
    batch_tokens: int = Field(32768, ge=64)  # key/value positions a batch may hold
    score_candidates: int = Field(4, ge=1)  # per query, the most voted ones


class SelectSettings(_Settings):
    """How two attempts are chosen from the candidates."""

    rule: str = "product_of_experts"  # a name of arc.selection.RULES

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, name: str) -> str:
        if name not in RULES:
            raise ValueError(f"unknown rule {name!r}; there are: {', '.join(RULES)}")
        return name


class BudgetSettings(_Settings):
    """How seconds are spent."""

    policy: Literal["fixed", "uniform", "adaptive"] = "adaptive"
    profile: Path | None = None  # of this machine, by `solver profile`; none: the one that comes with the package
    fixed_waves: tuple[int, ...] = ()  # optimizer steps of each pass under "fixed"; none: one pass by the other settings
    reserve: float | None = Field(None, ge=0)  # seconds kept for the last write, kill and report; none: see `budget.reserve`
    chunk: int | None = Field(None, ge=1)  # tasks per work item; none: one, or as many as pay for a device that changes hands
    floor: float = Field(10.0, ge=0)  # seconds a work item gets at least under "uniform"; the longest tasks may get none
    heartbeat: float = Field(120.0, gt=0)  # seconds of silence after which a worker counts as lost
    grace: float = Field(15.0, ge=0)  # seconds past its deadline after which a work item's worker is killed


class WorkerSettings(_Settings):
    """The processes that do the work: one for each device, and more where a device has room for more."""

    devices: int | None = Field(None, ge=1)  # GPUs to use; none: all there are. Without one the processor is the one device
    per_device: int = Field(1, ge=1)
    memory: float | None = Field(None, gt=0)  # bytes of host memory a worker needs; none: estimated from the model's files
    # fits and an engine with weights of its own (vllm) on one GPU:
    alternate: bool | None = None  # whether they take turns with its memory; none: if it does not hold both (see model.device)
    fit_share: float | None = Field(None, gt=0, lt=1)  # of a worker's memory, for fits; none: by what the model and batches need


class Settings(_Settings):
    """The whole tree."""

    seed: int = Field(0, ge=0)
    input: InputSettings = InputSettings()
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    infer: InferSettings = InferSettings()
    select: SelectSettings = SelectSettings()
    budget: BudgetSettings = BudgetSettings()
    workers: WorkerSettings = WorkerSettings()

    @model_validator(mode="after")
    def _serves_what_is_fitted(self) -> Self:
        if self.infer.engine == "vllm" and self.train.trainer == "full":
            raise ValueError("infer.engine = vllm serves LoRA adapters alone, train.trainer = full makes others")
        return self


def _nullable(tree: type[_Settings], prefix: str = "") -> Iterator[str]:
    """The dotted names of the settings in `tree` whose type allows None."""
    for name, field in tree.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, _Settings):
            yield from _nullable(kind, f"{prefix}{name}.")
        elif type(None) in get_args(kind):
            yield prefix + name


_NULLABLE = frozenset(_nullable(Settings))  # TOML has no null: `--set NAME=none` gives these None


def preset_names(kind: Literal["machines", "recipes"]) -> list[str]:
    """The shipped presets of a kind, sorted."""
    return sorted(f.name.removesuffix(".toml") for f in _folder(kind).iterdir() if f.name.endswith(".toml"))


def load_settings(machine: str | None = None, recipe: str | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Settings from presets and `key=value` overrides. Raises InputError naming the unknown preset, key or bad value.

    `train.steps` and `train.epochs` say the same thing in two ways: a layer that gives one a value clears what earlier
    layers gave the other.
    """
    layers = [] if machine is None else [_preset("machines", machine)]
    if recipe is not None:
        layers.append(_preset("recipes", recipe))
    tree: dict[str, Any] = {}
    for layer in (*layers, *map(_override, overrides)):
        _clear_rival(tree, layer)
        _merge(tree, layer)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        what = "unknown setting" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise InputError(f"setting {name}: {what}") from None


MAX_DURATION = 366 * 86400.0  # seconds


def parse_duration(text: str) -> float:
    """Seconds of "90s", "5m", "11h30m" or a bare number of seconds. Raises InputError for anything else, zero and years too."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    seconds = sum(float(number) * units[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text:
        if not re.fullmatch(r"\d+(\.\d+)?", text):
            raise InputError(f"{text!r} is not a duration; write it as 90s, 5m or 11h30m")
        seconds = float(text)
    if seconds <= 0:
        raise InputError(f"{text!r} is not a positive duration")
    if seconds > MAX_DURATION:
        raise InputError(f"{text!r} is longer than a year")
    return seconds


def _folder(kind: str) -> Any:
    return resources.files("solver").joinpath(kind)


def _preset(kind: Literal["machines", "recipes"], name: str) -> dict[str, Any]:
    if name not in preset_names(kind):
        raise InputError(f"unknown {kind[:-1]} {name!r}; there are: {', '.join(preset_names(kind))}")
    return tomllib.loads(_folder(kind).joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--set {text}: write it as key=value, for example train.rank=32")
    try:
        parsed = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = None if value == "none" and key in _NULLABLE else value  # a bare word is a string
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return dict(parsed)


def _clear_rival(tree: Mapping[str, Any], layer: Mapping[str, Any]) -> None:
    """Make the length of training that a new layer gives, in steps or epochs, the only one."""
    old, new = tree.get("train"), layer.get("train")
    if not isinstance(old, dict) or not isinstance(new, Mapping):
        return
    for name, rival in (("steps", "epochs"), ("epochs", "steps")):
        if new.get(name) is not None and rival in old:
            old[rival] = None


def _merge(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value
