"""The profile of a machine: what a model's steps and passes cost on it, either measured by `solver profile` or estimated.

A profile is one JSON file: the machine, the model, and for every quantisation the fixed costs and one row per sequence length. A
run's cost model starts from it. `solver.commands.profile` does the measuring.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from solver.arc.jsonfile import read_json, write_json
from solver.errors import InputError

PROFILE_VERSION: Final = 1

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Part):
    """The machine of a profile. `peak_flops` (FLOP/s in the dtype of the run) and `bandwidth` (bytes/s) belong to one device."""

    preset: str = ""  # name of the machine preset; empty: none was given
    kind: Literal["cpu", "cuda"]
    device: str  # processor or GPU, as the system names it
    devices: int = Field(1, ge=1)  # that a run uses
    cores: int = Field(0, ge=0)  # 0: unknown
    threads: int = Field(0, ge=0)  # of a worker; 0: unknown
    memory: int = Field(ge=0)  # bytes of one device; the host's on a CPU
    peak_flops: Rate | None = None
    bandwidth: Rate | None = None
    source: str = ""  # of `peak_flops` and `bandwidth`


class Model(_Part):
    """The model of a profile: the sizes that its costs depend on."""

    name: str
    parameters: int = Field(ge=1)
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    kv_width: int = Field(ge=1)  # key/value heads times head size
    q_width: int = Field(ge=1)  # attention heads times head size
    vocabulary: int = Field(ge=1)

    def __str__(self) -> str:
        return f"{self.name} ({self.parameters:,} weights)"

    def alike(self, other: Model) -> bool:
        """Whether the other model costs the same."""
        return self == other.model_copy(update={"name": self.name})


class Row(_Part):
    """Costs at one sequence length. A number that was not measured is None, and `note` says why."""

    tokens: int = Field(ge=1)  # of a training sequence, and of a prompt
    step_seconds: Seconds | None = None  # one optimizer step over `Variant.batch` sequences
    steps: int = Field(0, ge=0)  # that were timed
    mfu: float | None = Field(None, ge=0)  # of a step: model FLOP/s over `Machine.peak_flops`
    prefill_seconds: Seconds | None = None  # reading one of `Variant.views` prompts that are read together
    decode_rate: Rate | None = None  # tokens/s, all of `Variant.views` prompts answered together
    search_rate: Rate | None = None  # tokens expanded a second in `search`
    score_seconds: Seconds | None = None  # one completion of `score_tokens` under one prompt that was just answered
    score_tokens: int = Field(0, ge=0)
    peak_memory: int | None = Field(None, ge=0)  # bytes: of the device on CUDA, of the process elsewhere
    note: str = ""  # "out of memory", "skipped: ..."


class Variant(_Part):
    """One way to load the model: fixed costs, and rows by rising length."""

    quantization: Literal["none", "nf4"]
    dtype: str
    trainer: str
    engine: str
    rank: int = Field(ge=0)  # 0: all weights are trained
    batch: int = Field(ge=1)  # sequences an optimizer step
    views: int = Field(ge=1)  # prompts that are read and answered together
    checkpointing: bool = False
    context: int = Field(0, ge=0)  # tokens of the longest sequence; 0: unknown
    import_seconds: Seconds  # a fresh process until torch and the libraries are imported
    load_seconds: Seconds  # the base model, from disk to device
    trainer_seconds: Seconds  # making the trainer
    engine_seconds: Seconds  # making the engine
    fit_seconds: Seconds  # of a fit, besides its steps: making and saving its weights
    rows: tuple[Row, ...]
    note: str = ""  # why it could not be measured

    @model_validator(mode="after")
    def _ascending(self) -> Variant:
        lengths = [row.tokens for row in self.rows]
        if lengths != sorted(set(lengths)):
            raise ValueError("the lengths of the rows do not rise")
        return self

    @property
    def start_seconds(self) -> float:
        """From the creation of a worker until it can take work."""
        return sum(self.start_parts.values())

    @property
    def start_parts(self) -> dict[str, float]:
        """These seconds by part."""
        return {
            "imports": self.import_seconds,
            "model": self.load_seconds,
            "trainer": self.trainer_seconds,
            "engine": self.engine_seconds,
        }

    def points(self, field: str) -> list[tuple[int, float]]:
        """(tokens, value) of the rows in which `field` was measured."""
        return [(row.tokens, value) for row in self.rows if (value := getattr(row, field)) is not None]


class Profile(_Part):
    """The contents of a profile file."""

    version: Literal[1] = PROFILE_VERSION
    derivation: str = ""  # how the numbers were estimated; empty: all of them were measured
    measured_at: str = ""  # ISO date and time
    commit: str = ""
    versions: dict[str, str] = {}
    machine: Machine
    model: Model
    variants: tuple[Variant, ...] = Field(min_length=1)

    @property
    def estimate(self) -> bool:
        """Whether the numbers were derived, not measured."""
        return bool(self.derivation)

    def variant(self, quantization: str) -> Variant:
        """The variant with that quantisation; if there is none, the first variant."""
        return next((variant for variant in self.variants if variant.quantization == quantization), self.variants[0])

    def differences(self, machine: Machine, model: Model) -> list[str]:
        """How this profile differs from `machine` and `model`, in words; empty if it is about them."""
        differences = []
        if self.machine.device != machine.device:
            differences.append(f"it was made on {self.machine.device}, this machine has {machine.device}")
        elif self.machine.threads and machine.threads and self.machine.threads != machine.threads:
            differences.append(f"it was made with {self.machine.threads} threads, now {machine.threads}")
        if not self.model.alike(model):
            differences.append(f"it is about the model {self.model}, not {model}")
        return differences


def load_profile(path: Path) -> Profile:
    """Read a profile. Raises InputError naming the file if it is missing, damaged, no profile, or of another version."""
    value = read_json(path, "profile")
    if not isinstance(value, dict) or "version" not in value:
        raise InputError(f"{path}: not a profile")
    if value["version"] != PROFILE_VERSION:
        raise InputError(f"{path}: a profile of version {value['version']}, this package reads version {PROFILE_VERSION}")
    try:
        return Profile.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: not a profile: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def check_place(path: Path) -> None:
    """Check, before minutes of measuring, that a profile can be saved at `path`. Raises InputError if it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    if path.is_dir():
        raise InputError(f"{path}: cannot be written: it is a folder")


def save_profile(path: Path, profile: Profile) -> None:
    """Replace `path` as a whole. Raises InputError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, profile.model_dump(mode="json"))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def ratios(new: Profile, old: Profile) -> Iterator[tuple[str, int | None, str, float, float]]:
    """(quantisation, length or None, what, new, old) for every number that both profiles have, fixed costs first."""
    by_quantization = {variant.quantization: variant for variant in old.variants}
    for variant in new.variants:
        before = by_quantization.get(variant.quantization)
        if before is None:
            continue
        for name in FIXED:
            yield variant.quantization, None, name, getattr(variant, name), getattr(before, name)
        rows = {row.tokens: row for row in before.rows}
        for row in variant.rows:
            if row.tokens in rows:
                for name in MEASURED:
                    a, b = getattr(row, name), getattr(rows[row.tokens], name)
                    if a is not None and b is not None:
                        yield variant.quantization, row.tokens, name, a, b


FIXED = ("import_seconds", "load_seconds", "trainer_seconds", "engine_seconds", "fit_seconds")
MEASURED = ("step_seconds", "prefill_seconds", "decode_rate", "search_rate", "score_seconds", "peak_memory")
