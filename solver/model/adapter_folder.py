"""Reads the folder of a LoRA adapter without torch: its shape, the layers that it changes, and a digest that identifies it.

The format is PEFT's: adapter_config.json, and adapter_model.safetensors with two matrices for each layer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from solver.arc.jsonfile import read_json
from solver.config import TrainSettings
from solver.errors import InputError, one_line

PREFIX = "base_model.model."  # PEFT puts this before the name of every layer
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraShape:
    """Rank, scaling and dropout of an adapter; the same for all adapters of a stack."""

    rank: int
    alpha: float
    rslora: bool = False
    dropout: float = 0.0

    @property
    def scaling(self) -> float:
        """The factor on B A x."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def read_shape(folder: Path) -> LoraShape:
    """The shape of the adapter in `folder`, without dropout. Raises InputError if it is not a LoRA adapter that is supported."""
    file = folder / CONFIG
    if not file.is_file():
        raise InputError(f"{folder}: not a LoRA adapter: {CONFIG} is missing")
    config = read_json(file, "adapter configuration")
    try:
        shape = LoraShape(int(config["r"]), float(config["lora_alpha"]), bool(config.get("use_rslora", False)))
        kind = str(config.get("peft_type", "LORA"))
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: not a LoRA adapter: {CONFIG}: {type(error).__name__}: {error}") from None
    if kind != "LORA":
        raise InputError(f"{folder}: not a LoRA adapter: its peft_type is {kind}")
    if shape.rank < 1:
        raise InputError(f"{folder}: not a LoRA adapter: its rank (r) is {shape.rank}")
    if config.get("use_dora") or config.get("rank_pattern") or config.get("alpha_pattern"):
        raise InputError(f"{folder}: adapters with DoRA or per-layer ranks are not supported")
    return shape


def check_start(folder: Path, train: TrainSettings) -> None:
    """Raises InputError, with a remedy, if fits with the settings `train` cannot start from the adapter in `folder`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such adapter folder")
    shape = read_shape(folder)
    if not (folder / WEIGHTS).is_file():
        pickled = ", only pickled ones, which are never loaded" if any(folder.glob("*.bin")) else ""
        raise InputError(f"{folder}: has no {WEIGHTS}{pickled}")
    if train.trainer == "full":
        raise InputError(f"{folder}: train.trainer=full changes all weights and cannot start from LoRA: set train.trainer=lora")
    wanted = LoraShape(train.rank, train.alpha, train.rslora)
    if (shape.rank, shape.scaling) != (wanted.rank, wanted.scaling):
        raise InputError(
            f"{folder}: the adapter's shape is not that of the settings: --set train.rank={shape.rank} "
            f"--set train.alpha={shape.alpha:g} --set train.rslora={str(shape.rslora).lower()}"
        )


def check_layers_fit(folder: Path, rank: int, layers: Mapping[str, tuple[int, int]]) -> None:
    """Raises InputError if an adapter changes anything but `layers`, or if the shape of a matrix is wrong.

    `layers` gives the widths (in, out) of each layer by its name. Only the header of the weights file is read; safetensors
    compares it with the size of the file.
    """
    from safetensors import SafetensorError, safe_open  # a run of programs alone does without this package

    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: corrupt adapter: {WEIGHTS}: {one_line(error)}") from None
    for name, shape in shapes.items():
        layer, _, matrix = name.removeprefix(PREFIX).rpartition(".lora_")
        if layer not in layers or matrix not in ("A.weight", "B.weight"):
            raise InputError(f"{folder}: adapter does not fit the model: it changes {name}")
        width, height = layers[layer]
        if shape != ((rank, width) if matrix == "A.weight" else (height, rank)):
            raise InputError(f"{folder}: adapter does not fit the model: {layer} is {shape}")


def adapter_identity(folder: Path) -> str:
    """A digest of an adapter's shape and weights. Copies of an adapter have the same one. Raises InputError."""
    shape = read_shape(folder)
    digest = hashlib.sha256(f"{shape.rank}:{shape.scaling}:".encode())
    try:
        with (folder / WEIGHTS).open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{folder / WEIGHTS}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:16]
