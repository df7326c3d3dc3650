"""The settings of a run: one frozen tree with a default for every key. Unknown keys are errors.

Values come from these layers, of which later ones win: the defaults here, the machine preset (machines/NAME.toml), the recipe
preset (recipes/NAME.toml), `--set key=value`. A preset sets any subset of the keys.
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

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: the one that the device multiplies fastest
    quantization: Literal["none", "nf4"] = "none"
    format: Literal["auto", "text", "nvarc", "architects"] = "auto"  # of prompts; auto: by the model's format.json, else text
    context: int = Field(8192, ge=64)  # tokens at most; demonstrations that make a prompt longer are left out
    device: str = "auto"  # auto: the first CUDA device, else cpu
    threads: int = Field(0, ge=0)  # 0: as many as there are cores, fewer while other programs use some


class DataSettings(_Settings):
    """The training examples that are made from the demonstrations of a task."""

    scheme: Literal["loo", "e2e", "n-1", "n-2"] = "n-1"  # see `arc.ttt_data`
    max_sequences: int = Field(250, ge=1)  # per task
    transforms: tuple[Transform, ...] = Field(TRANSFORMS, min_length=1)
    colours: ColourMode = "permute_nonzero"
    shuffle: bool = True  # whether the demonstrations are permuted
    augmenters: tuple[str, ...] = ()  # names in arc.augment.AUGMENTERS, or chains of them joined by "+"; added to the transforms
    augment: bool = True  # false: grids as they are, without transforms, colours or augmenters. For comparisons
    original_colours: float = Field(0.0, ge=0, le=1)  # share of the examples with permuted colours that keep theirs
    loss_on_demonstrations: bool = True  # whether outputs of demonstrations count, except the first, which cannot be inferred
    loss_on_answer: bool = True  # whether the output that the example asks for counts

    @field_validator("augmenters")
    @classmethod
    def _known_augmenters(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            augmenter(name)
        return names


class TrainSettings(_Settings):
    """How adapters are fitted."""

    trainer: Literal["auto", "lora", "peft", "full", "unsloth", "none"] = "auto"  # none: a run of program search alone
    stack: int | None = Field(None, ge=1)  # tasks that one step of "lora" trains at most; none: 1 on a CPU, else by memory
    # One adapter, fitted on all tasks before any is answered; no task gets a fit of its own. For comparisons, and for reproducing
    # results of one adapter for all tasks.
    shared: bool = False
    rank: int = Field(32, ge=1)  # of LoRA, as the next three
    alpha: float = Field(16.0, gt=0)
    rslora: bool = False  # scale by alpha / sqrt(rank) instead of alpha / rank
    dropout: float = Field(0.0, ge=0, lt=1)
    lr: float | None = Field(None, gt=0)  # peak learning rate; none: by the size of the model (train.schedule)
    warmup: float = Field(0.1, ge=0, le=1)  # share of a fit, linear from zero
    cooldown: float = Field(0.3, ge=0, le=1)  # share of a fit, linear to zero
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)  # norm to which the gradient of a task is clipped
    batch_sequences: int = Field(4, ge=1)  # of one task in an optimizer step
    batch_tokens: int = Field(16384, ge=64)  # tokens in a forward pass at most, padding included; a step may take several passes
    checkpointing: bool = False  # gradient checkpointing: less memory, more time
    compile: bool | None = None  # whether "lora" compiles the passes of stacks; none: on CUDA, where fits take long enough
    steps: int | None = Field(
        60, ge=0
    )  # optimizer steps of a full pass over a task; policies that go by the clock may plan others
    epochs: float | None = Field(None, gt=0)  # instead of steps: how often a full pass trains on each sequence of the task

    @field_validator("trainer", mode="before")
    @classmethod
    def _no_former_name(cls, name: Any) -> Any:
        if name == "stacked":
            raise ValueError("'stacked' is called 'lora' now, and train.stack says how many tasks a step advances")
        return name

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise ValueError("set steps or epochs: neither has a value, so the length of a fit is unknown")
        return self


class ViewSettings(_Settings):
    """The views under which a query is answered."""

    transforms: tuple[Transform, ...] = Field(TRANSFORMS, min_length=1)
    colours: ColourMode = "permute"
    shuffle: bool = True  # whether the demonstrations are permuted
    keep_identity: bool = True  # whether the first draw for each transform keeps colours and order
    count: int | None = Field(None, ge=1)  # views at most; none: the number of transforms times `infer.permutations`


class InferSettings(_Settings):
    """How answers are produced."""

    engine: Literal["auto", "vllm", "hf"] = "auto"
    mode: Literal["greedy", "sample", "search"] = "greedy"
    views: ViewSettings = ViewSettings()
    permutations: int = Field(1, ge=1)  # draws of colours and order for each transform
    samples: int = Field(1, ge=1)  # per view, in mode "sample"
    temperature: float = Field(1.0, gt=0)  # in mode "sample"
    min_prob: float = Field(0.1, gt=0, lt=1)  # in mode "search": answers of at least this probability are found
    grammar: bool = True  # allow only answers that are grids
    score: bool = True  # score candidates under every view
    batch_tokens: int = Field(32768, ge=64)  # tokens whose keys and values a batch may hold
    score_candidates: int = Field(4, ge=1)  # candidates of a query to score: those with the most votes


class SelectSettings(_Settings):
    """How the two attempts are chosen from the candidates."""

    rule: str = "product_of_experts"  # a name in arc.selection.RULES

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, name: str) -> str:
        if name == "verifier":
            raise ValueError(
                "runs do not load a verifier: choose again afterwards, by solver select --rule verifier --verifier DIR"
            )
        if name not in RULES:
            raise ValueError(f"unknown rule {name!r}; there are: {', '.join(RULES)}")
        return name


class BudgetSettings(_Settings):
    """How the time is spent."""

    policy: Literal["fixed", "uniform", "adaptive"] = "adaptive"
    profile: Path | None = None  # a file of `solver profile` for this machine; none: the profile that ships with the package
    fixed_waves: tuple[int, ...] = ()  # optimizer steps of each pass under "fixed"; empty: one pass of `train.steps`
    reserve: float | None = Field(None, ge=0)  # seconds kept for the last write, kills and report; none: see `budget.reserve`
    chunk: int | None = Field(None, ge=1)  # tasks in a work item; none: 1, or more where tasks share steps or turns on a GPU
    floor: float = Field(10.0, ge=0)  # seconds: at least so many for an item of "uniform" and for the first pass of "adaptive"
    heartbeat: float = Field(120.0, gt=0)  # seconds without a sign of life after which a worker counts as lost
    grace: float = Field(15.0, ge=0)  # seconds after its deadline at which the worker of a work item is killed


class WorkerSettings(_Settings):
    """The processes that do the work: `per_device` for each device."""

    executor: Literal["local", "ray"] = "local"  # this machine, or the nodes of a Ray cluster
    # of the cluster: auto (the one that this machine belongs to), local (one that is started here), ray://HOST:PORT or HOST:PORT
    address: str = Field("auto", pattern=r"^(auto|local|(ray://)?[^/\s]+:\d+)$")
    devices: int | None = Field(None, ge=1)  # GPUs to use; none: all. On a machine without a GPU, the CPU is the only device
    per_device: int = Field(1, ge=1)
    memory: float | None = Field(None, gt=0)  # bytes of host memory that a worker needs; none: estimated from the model's files
    # the next two: for fits and an engine with weights of its own (vllm) on one GPU, see `model.device`
    alternate: bool | None = None  # whether they take turns with the memory; none: they do if it does not hold both
    fit_share: float | None = Field(None, gt=0, lt=1)  # of a worker's memory, for fits; none: what model and batches need

    @model_validator(mode="after")
    def _has_a_cluster(self) -> Self:
        if self.address != "auto" and self.executor != "ray":
            raise ValueError("workers.address (--address) is that of a cluster: it needs workers.executor = ray (--executor ray)")
        return self


class ProgramSettings(_Settings):
    """Program search, a second origin of candidates beside the network: see `budget.program_share`."""

    enabled: bool = True
    seconds: float | None = Field(None, gt=0)  # of a process, for a task at most; none: more where cores are idle
    processes: int | None = Field(None, ge=1)  # none: by the cores that the workers leave


class Settings(_Settings):
    """All settings of a run."""

    seed: int = Field(0, ge=0)
    input: InputSettings = InputSettings()
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    infer: InferSettings = InferSettings()
    select: SelectSettings = SelectSettings()
    budget: BudgetSettings = BudgetSettings()
    workers: WorkerSettings = WorkerSettings()
    programs: ProgramSettings = ProgramSettings()

    @model_validator(mode="after")
    def _serves_what_is_fitted(self) -> Self:
        if self.infer.engine == "vllm" and self.train.trainer == "full":
            raise ValueError("infer.engine = vllm serves LoRA adapters only, and train.trainer = full makes no LoRA adapters")
        return self

    @model_validator(mode="after")
    def _has_an_origin(self) -> Self:
        if not self.network and not self.programs.enabled:
            raise ValueError("train.trainer = none leaves program search alone, and programs.enabled = false leaves nothing")
        return self

    @property
    def network(self) -> bool:
        """Whether a run has workers with a model."""
        return self.train.trainer != "none"


def _nullable(tree: type[_Settings], prefix: str = "") -> Iterator[str]:
    """The dotted names of the settings in `tree` whose type allows None."""
    for name, field in tree.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, _Settings):
            yield from _nullable(kind, f"{prefix}{name}.")
        elif type(None) in get_args(kind):
            yield prefix + name


_NULLABLE = frozenset(_nullable(Settings))  # `--set NAME=none` sets these to None, because TOML has no null


def preset_names(kind: Literal["machines", "recipes"]) -> list[str]:
    """The names of the presets of a kind that ship with the package, sorted."""
    return sorted(f.name.removesuffix(".toml") for f in _folder(kind).iterdir() if f.name.endswith(".toml"))


def load_settings(machine: str | None = None, recipe: str | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Settings from presets and `key=value` overrides. Raises InputError naming the unknown preset, key or bad value.

    `train.steps` and `train.epochs` both set the length of a fit. So a layer that sets one of them clears the value that earlier
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
        raise InputError(f"setting {name}: {what}" if name else what) from None


MAX_DURATION = 366 * 86400.0  # seconds


def parse_duration(text: str) -> float:
    """The seconds of "90s", "5m", "11h30m" or a plain number. Raises InputError for other texts, for 0 and for over a year."""
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
    """If `layer` sets `train.steps` or `train.epochs`, clear the other one in `tree`."""
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
