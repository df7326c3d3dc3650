"""Chooses the profile that a run starts from, and estimates profiles of machines that were not measured.

The profile of a preset is `machines/profiles/NAME.json` if that exists. Otherwise it is estimated from the `cpu` profile and
marked as an estimate, which assumes the same utilisation on both machines (Williams, Waterman, Patterson 2009, the roofline
model):

    seconds there = max(seconds here * roof there / roof here, kernels * LAUNCH)      roof = max(FLOP / peak, bytes / bandwidth)

with the FLOP and bytes of one optimizer step, one prefill or one decoding pass by the shape of the model. The second term is
for small models on a GPU, whose kernels end before the host has launched the next one. In an estimate from a CPU for a GPU the
utilisation is at most `UTILISATION`, because a GPU is harder to use fully.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from solver.budget.profile import Machine, Model, Profile, Row, Variant, load_profile
from solver.errors import InputError
from solver.model.folder import EMBEDDED, check_folder, count_weights
from solver.model.shipped import name_of
from solver.textfile import read_text

LAUNCH = 1e-5  # seconds of host time a CUDA kernel takes to launch from Python; assumed
KERNELS = 30  # a decoder layer, forward: norms, rotations, projections, attention, gates; backward takes twice as many
UTILISATION = 0.3  # of a GPU's peak or bandwidth, where only a CPU was measured; assumed
DISK = 5e8  # bytes/s at which weights are read; assumed
ANCHOR = "cpu"  # the preset that the others are derived from


@dataclass(frozen=True)
class Hardware:
    """One kind of device by its data sheet: dense FLOP/s in the dtype a preset uses, bytes/s, bytes."""

    kind: Literal["cpu", "cuda"]
    device: str
    memory: int
    peak_flops: float
    bandwidth: float
    source: str

    def machine(self, preset: str, devices: int) -> Machine:
        """A machine with `devices` of these devices."""
        return Machine(
            preset=preset,
            kind=self.kind,
            device=self.device,
            devices=devices,
            memory=self.memory,
            peak_flops=self.peak_flops,
            bandwidth=self.bandwidth,
            source=self.source,
        )


T4 = Hardware("cuda", "Tesla T4", 16 * 10**9, 65e12, 320e9, "data sheet, fp16 tensor cores")
L4 = Hardware("cuda", "NVIDIA L4", 24 * 10**9, 121e12, 300e9, "data sheet, bf16 tensor cores, dense")
H200 = Hardware("cuda", "NVIDIA H200", 141 * 10**9, 989e12, 4.8e12, "data sheet (SXM), bf16 tensor cores, dense")
PRESETS = {"kaggle-t4x2": (T4, 2), "kaggle-l4x4": (L4, 4), "h200": (H200, 1)}  # and how many devices


def known_device(name: str) -> Hardware | None:
    """The data sheet of a GPU by the name that its driver gives; None if it is not known."""
    return next((device for device in (T4, L4, H200) if device.device.split()[-1] in name.replace("-", " ").split()), None)


# -- the work, by the shape of the model


def forward_flops(model: Model, tokens: int) -> float:
    """FLOP of reading one sequence: 2 a weight and token, and causal attention over half the sequence on average."""
    return tokens * (2.0 * model.parameters + 2.0 * model.layers * model.q_width * tokens)


def step_flops(model: Model, variant: Variant, tokens: int, recomputed: bool = False) -> float:
    """FLOP of an optimizer step. LoRA needs no gradients of the base; `recomputed` counts checkpointing's second forward."""
    passes = (3.0 if variant.rank == 0 else 2.0) + (1.0 if recomputed and variant.checkpointing else 0.0)
    return passes * variant.batch * forward_flops(model, tokens)


def weight_bytes(model: Model, variant: Variant) -> float:
    """Bytes of the base model's weights."""
    if variant.quantization == "nf4":
        return 0.5 * model.parameters
    return model.parameters * (4.0 if variant.dtype == "float32" else 2.0)


def cache_bytes(model: Model, variant: Variant, tokens: int) -> float:
    """Bytes of the keys and values of one sequence."""
    return 2.0 * model.layers * model.kv_width * tokens * (4.0 if variant.dtype == "float32" else 2.0)


# -- estimates


def estimate(profile: Profile, machine: Machine, model: Model) -> Profile:
    """A profile of another machine or model, estimated from `profile`, with its derivation.

    Raises InputError if the peak or the bandwidth of one of the machines is unknown.
    """
    for place in (profile.machine, machine):
        if place.peak_flops is None or place.bandwidth is None:
            raise InputError(f"the peak FLOP/s and the bandwidth of {place.device} are unknown, so nothing can be estimated")
    scale = _Scale(profile.machine, profile.model, machine, model)
    derivation = (
        f"estimate for {model.name} on {_roofs(machine)}, from {profile.model.name} on {_roofs(profile.machine)}: seconds * roof "
        f"there / roof here, roof = max(FLOP / peak, bytes / bandwidth), the same utilisation assumed"
    )
    if machine.kind == "cuda":
        derivation += f"; at least {KERNELS} kernels a layer and pass of {LAUNCH:g} s each"
        if profile.machine.kind == "cpu":
            derivation += f"; a utilisation of {UTILISATION} at most"
    if profile.estimate:
        derivation += f"; the latter is itself an {profile.derivation}"
    variants = tuple(_variant(variant, scale) for variant in profile.variants)
    return profile.model_copy(
        update={"derivation": derivation, "measured_at": "", "machine": machine, "model": model, "variants": variants}
    )


@dataclass(frozen=True)
class _Scale:
    """From one (machine, model) to another."""

    machine: Machine
    model: Model
    to_machine: Machine
    to_model: Model

    def seconds(self, seconds: float, here: tuple[float, float], there: tuple[float, float], passes: float) -> float:
        """Seconds on the other machine, for work of (FLOP, bytes) that runs `passes` times through the layers."""
        roofed = seconds * _roof(self.to_machine, *there) / _roof(self.machine, *here)
        if self.to_machine.kind == "cpu":
            return roofed
        if self.machine.kind == "cpu":
            roofed = max(roofed, _roof(self.to_machine, *there) / UTILISATION)
        return max(roofed, passes * KERNELS * self.to_model.layers * LAUNCH)


def _roofs(machine: Machine) -> str:
    return f"{machine.device} ({machine.peak_flops:.3g} FLOP/s, {machine.bandwidth:.3g} bytes/s)"


def _roof(machine: Machine, flops: float, moved: float) -> float:
    assert machine.peak_flops is not None
    assert machine.bandwidth is not None
    return max(flops / machine.peak_flops, moved / machine.bandwidth)


def _variant(variant: Variant, scale: _Scale) -> Variant:
    there = variant
    if scale.to_machine.kind == "cuda" and variant.dtype == "float32":
        there = variant.model_copy(update={"dtype": "bfloat16" if "T4" not in scale.to_machine.device else "float16"})
    more = weight_bytes(scale.to_model, there) - weight_bytes(scale.model, variant)
    rows = tuple(_row(row, variant, there, scale) for row in variant.rows)
    return there.model_copy(update={"rows": rows, "load_seconds": variant.load_seconds + max(more, 0.0) / DISK})


def _row(row: Row, here: Variant, there: Variant, scale: _Scale) -> Row:
    old, new, tokens = scale.model, scale.to_model, row.tokens
    changed: dict[str, Any] = {"peak_memory": None, "steps": 0, "mfu": None}

    def bytes_of(model: Model, variant: Variant, length: int, rows: int) -> float:
        return weight_bytes(model, variant) + rows * cache_bytes(model, variant, length)

    if row.step_seconds is not None:
        work = (step_flops(old, here, tokens, True), 0.0), (step_flops(new, there, tokens, True), 0.0)
        step = scale.seconds(row.step_seconds, *work, passes=3)
        changed["step_seconds"] = step
        if scale.to_machine.peak_flops:
            changed["mfu"] = step_flops(new, there, tokens) / step / scale.to_machine.peak_flops
    reading = (forward_flops(old, tokens), 0.0), (forward_flops(new, tokens), 0.0)
    if row.prefill_seconds is not None:
        changed["prefill_seconds"] = scale.seconds(row.prefill_seconds, *reading, passes=1 / here.views)
    if row.score_seconds is not None:
        changed["score_seconds"] = scale.seconds(row.score_seconds, *reading, passes=1 / here.views)
    decoding = (
        (2.0 * old.parameters * here.views, bytes_of(old, here, tokens, here.views)),
        (2.0 * new.parameters * here.views, bytes_of(new, there, tokens, here.views)),
    )
    for rate in ("decode_rate", "search_rate"):
        if (value := getattr(row, rate)) is not None:
            changed[rate] = here.views / scale.seconds(here.views / value, *decoding, passes=1)
    return row.model_copy(update=changed)


# -- the profile of a run


def model_of(folder: Path | None) -> Model:
    """The sizes of a base model, from its folder and without torch. Raises InputError if one is missing."""
    path = EMBEDDED if folder is None else folder
    check_folder(path)
    config = json.loads(read_text(path / "config.json", "model configuration"))
    config = config.get("text_config") or config

    def number(*names: str) -> int:
        for name in names:
            if isinstance(config.get(name), int):
                return int(config[name])
        raise InputError(f"{path / 'config.json'}: has no {names[0]}")

    hidden, heads = number("hidden_size", "n_embd"), number("num_attention_heads", "n_head")
    head = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return Model(
        name=name_of(path),
        parameters=count_weights(path),
        layers=number("num_hidden_layers", "n_layer"),
        hidden=hidden,
        kv_width=kv_heads * head,
        q_width=heads * head,
        vocabulary=number("vocab_size"),
    )


def stored(machine: str | None = None, model: Model | None = None) -> Profile:
    """The profile of a machine preset (none: `cpu`) and of a model (none: the one that was measured), measured or estimated.

    Raises InputError for a preset without a profile.
    """
    preset = machine or ANCHOR
    file = resources.files("solver").joinpath("machines", "profiles", f"{preset}.json")
    if file.is_file():
        profile = load_profile(Path(str(file)))
    elif preset in PRESETS:
        hardware, devices = PRESETS[preset]
        there = hardware.machine(preset, devices)
        anchor = stored(ANCHOR)
        profile = estimate(anchor, there, model or anchor.model)
    else:
        raise InputError(f"there is no profile of machine {preset!r}; there are: {', '.join(sorted((ANCHOR, *PRESETS)))}")
    if model is not None and not profile.model.alike(model):
        profile = estimate(profile, profile.machine, model)
    return profile


def prior(path: Path | None, machine: str | None, model: Model) -> tuple[Profile, list[str]]:
    """The profile a run starts from, and warnings: the one at `path` if that can be used, else the stored one.

    A profile of another model is turned into an estimate for this one.
    """
    if path is None:
        return stored(machine if machine in PRESETS else ANCHOR, model), []
    try:
        profile = load_profile(path)
        if profile.model.alike(model):
            return profile, []
        warning = f"{path}: is about the model {profile.model}, not {model}; costs are estimated from it"
        return estimate(profile, profile.machine, model), [warning]
    except InputError as error:
        warning = f"{error}; the profile that comes with the package is used instead"
        return stored(machine if machine in PRESETS else ANCHOR, model), [warning]
