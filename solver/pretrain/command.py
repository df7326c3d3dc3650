"""`solver pretrain`: make or continue a base model, or fine-tune somebody else's on the same data.

solver pretrain --corpus DIR --minutes 60 --out runs/pretrain
solver pretrain --corpus DIR --minutes 30 --out runs/pretrain --resume runs/pretrain/latest
torchrun --nproc-per-node 4 -m solver pretrain --corpus DIR --minutes 60 --out runs/pretrain --device cuda     # four GPUs
solver pretrain --corpus DIR --minutes 60 --out runs/llama --init LLAMA_FOLDER --lora --transforms both,input,output
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from solver.arc.datasets import load_tasks
from solver.arc.layouts import data_files, describe_folder
from solver.codec import Codec
from solver.errors import InputError
from solver.model.build import Shape, new_model
from solver.model.dtype import pick_device
from solver.pretrain.checkpoint import Position, load_model, read_position, read_state
from solver.pretrain.corpora import READING, build_store
from solver.pretrain.group import Group, joined_group
from solver.pretrain.guard import Guard, held_out
from solver.pretrain.loop import LoopSettings, train
from solver.pretrain.procedural import Procedural
from solver.pretrain.sampler import Batch, Sampler, SamplerSettings
from solver.pretrain.store import PairStore
from solver.pretrain.target import FullTarget, GridTarget, LoraTarget, PretrainTarget

PRESETS: Mapping[str, Shape] = {
    "tiny": Shape(hidden=64, layers=2, heads=2, ffn=192),
    "small": Shape(hidden=192, layers=6, heads=3, ffn=576),
    "base": Shape(hidden=256, layers=8, heads=4, ffn=768),
    "mid": Shape(hidden=384, layers=10, heads=6, ffn=1152),
}
MIXTURE: Mapping[str, float] = {
    "procedural": 0.3,
    "rearc": 0.252,
    "arcgen": 0.252,
    "arc1": 0.028,
    "arc2": 0.056,
    "conceptarc": 0.021,
    "miniarc": 0.021,
    "arc1d": 0.021,
    "tama": 0.042,
    "diva": 0.007,
}
DEFAULT_PRESET = "small"
ARC_SETS = ("arc1", "arc2")
VALIDATION_BATCHES = 12
VALIDATION_SEED = 7


@dataclass(frozen=True)
class PretrainOptions:
    """What the command line gives."""

    out: Path
    corpus: Path | None  # a folder of corpus files; None: the ARC-AGI training sets and procedural families alone
    loop: LoopSettings
    preset: str | None = None  # size of a new model; none: DEFAULT_PRESET
    resume: Path | None = None
    init: Path | None = None  # a causal language model to fine-tune instead of a grid model
    lora_rank: int | None = None  # with `init`: LoRA of that rank instead of all weights
    seed: int = 0
    device: str = "cpu"
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    mixture: Mapping[str, float] = field(default_factory=lambda: MIXTURE)  # share of the sequences by source


def pretrain(options: PretrainOptions, report: Callable[[str], None]) -> Position:
    """Run the command, as one process of a group where torchrun has started several.

    Raises InputError for unusable corpora, presets, models or checkpoints.
    """
    _check_device(options.device)
    with joined_group(options.device) as group:
        return _pretrain(options, report if group.leads else _silent, group)


def _pretrain(options: PretrainOptions, report: Callable[[str], None], group: Group) -> Position:
    target = make_target(options)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "metrics.jsonl").touch()
    except OSError as error:
        raise InputError(f"{options.out}: cannot be written: {error.strerror}") from None
    target.model.to(group.device)
    seed = _data_seed(options, report)
    codec = target.codec
    guard = evaluation_guard()
    if not group.leads:
        group.wait()  # the first process packs the corpora
    store = load_store(options.corpus, options.out, guard, report)
    if group.leads:
        group.wait()
    kept_out = [held_out(name) for name in store.names]
    learnt, endless = store.select([not out for out in kept_out]), {"procedural": Procedural(guard)}
    _check_mixture(options.mixture, {*learnt.sources, *endless})
    sampler = Sampler(learnt, options.mixture, codec, options.sampler, seed, endless)
    validation = validation_batches(store.select(kept_out), guard, options.sampler, codec)
    trained = sum(p.numel() for p in target.parameters().values())
    devices = options.device if group.size == 1 else f"{options.device}, {group.size} processes"
    report(
        f"{target.kind}: {trained:,} parameters; {len(store) - sum(kept_out)} stored families to learn from, "
        f"{sum(kept_out)} held out, procedural ones without end; {torch.get_num_threads()} threads on {devices}"
    )
    return train(target, sampler, validation, options.loop, options.out, options.resume, seed, report, group=group)


def _silent(_: str) -> None:
    """What processes but the first one have to say is what it says, too."""


def _check_device(name: str) -> None:
    try:
        pick_device(name)
    except InputError as error:
        raise InputError(str(error).replace("setting model.device", "--device")) from None


def _data_seed(options: PretrainOptions, report: Callable[[str], None]) -> int:
    """The seed of the data: that of the checkpoint, whose position means nothing in the data of another one."""
    position = None if options.resume is None else read_position(options.resume)
    if position is None or position.seed == options.seed:
        return options.seed
    report(f"the data goes on where {options.resume} left it, with its seed {position.seed}")
    return position.seed


def _check_mixture(mixture: Mapping[str, float], sources: set[str]) -> None:
    """Raises InputError for shares of sources that are not there, except the usual ones."""
    unknown = sorted(mixture.keys() - MIXTURE.keys() - sources)
    if unknown:
        raise InputError(f"--mixture: no source {unknown[0]!r}; there are: {', '.join(sorted(sources))}")
    if not any(mixture.get(source, 1.0) for source in sources):
        raise InputError(f"--mixture: every source there is has the share 0: {', '.join(sorted(sources))}")


def make_target(options: PretrainOptions) -> PretrainTarget:
    """What the options train. Raises InputError for options that exclude each other, and for unusable models."""
    if options.init is None:
        if options.lora_rank is not None:
            raise InputError("--lora needs the model to fine-tune: --init FOLDER")
        preset = options.preset or DEFAULT_PRESET
        if preset not in PRESETS:
            raise InputError(f"unknown preset {preset!r}; there are: {', '.join(PRESETS)}")
        new = new_model(PRESETS[preset], options.seed)
        if options.resume is None:
            return GridTarget(new)
        old = load_model(options.resume)
        if options.preset is not None:
            _check_preset(options.preset, old.config, new.config, options.resume)
        return GridTarget(old)
    if options.preset is not None:
        raise InputError("--preset is the size of a new model; --init brings its own")
    if options.resume is not None and read_state(options.resume) is None:
        raise InputError(f"{options.resume}: not a checkpoint of a fine-tuning (no state.json)")
    if options.lora_rank is None:
        return FullTarget(options.init, options.device)
    return LoraTarget(options.init, options.lora_rank, options.device, options.seed)


def _check_preset(preset: str, old: Any, new: Any, folder: Path) -> None:
    """Raises InputError if the model of a checkpoint is not what a preset names: only the checkpoint says what goes on."""
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    if old.model_type != new.model_type:
        raise InputError(
            f"{folder}: a {old.model_type}, --preset {preset} makes a {new.model_type}: leave --preset out to go on with it"
        )
    if any(getattr(old, name) != getattr(new, name) for name in sizes):
        raise InputError(f"{folder}: the checkpoint is no {preset}: leave --preset out to go on with the size it has")


def load_store(corpus: Path | None, out: Path, guard: Guard, report: Callable[[str], None]) -> PairStore:
    """All corpora behind the guard, cached in `out` by the names, sizes and times of their files, and by what is guarded."""
    files = corpus_files(corpus)
    identity = (READING, guard.identity, [(name, facts.st_size, facts.st_mtime_ns) for name, facts in files.values()])
    cache = out / f"corpus-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}.npz"
    if cache.is_file():
        try:
            store = PairStore.load(cache)
            report(f"corpus from {cache}")
            return store
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
            report(f"{cache}: damaged, made again")
    store = build_store(list(files), guard, report, {name: list(load_tasks(f"{name}:training")) for name in ARC_SETS}, corpus)
    partial = cache.with_name(f".partial-{cache.name}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        store.save(partial)
        partial.replace(cache)
    except OSError as error:  # the next start reads the corpora again
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        report(f"{cache}: cannot be written: {error.strerror}")
    return store


def corpus_files(corpus: Path | None) -> dict[Path, tuple[str, os.stat_result]]:
    """The corpus files of a folder, or the one that is given, with their names below it and what the disk says of them.

    Raises InputError.
    """
    if corpus is None:
        return {}
    if not corpus.is_dir():
        if not corpus.is_file():
            raise InputError(f"{corpus}: no such folder of corpus files")
        return {corpus: (corpus.name, corpus.stat())}
    found = data_files(corpus)
    if not found:
        raise InputError(f"{corpus}: no corpus: the folder holds {describe_folder(corpus)}")
    files = {}
    for file in found:
        try:
            files[file] = (file.relative_to(corpus).as_posix(), file.stat())
        except OSError as error:
            raise InputError(f"{file}: cannot read the corpus: {error.strerror}") from None
    return files


def corpora_digest(corpus: Path | None) -> str:
    """The same for files of the same names and sizes, wherever they lie. Raises InputError."""
    facts = [(name, facts.st_size) for name, facts in corpus_files(corpus).values()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def validation_batches(store: PairStore, guard: Guard, settings: SamplerSettings, codec: Codec) -> list[Batch]:
    """Fixed batches of families that training never sees, generators alone (their rules are known to be sound).

    Held-out procedural families stand in for generators where the corpora have none that fit a sequence.
    """
    generators = store.select([source in ("rearc", "arcgen") for source in store.sources])
    try:
        sampler = Sampler(generators, {}, codec, settings, VALIDATION_SEED)
    except InputError:
        sampler = Sampler(generators, {}, codec, settings, VALIDATION_SEED, {"procedural": Procedural(guard, held_out=True)})
    stream = sampler.batches(0, 0)
    return [next(stream)[2] for _ in range(VALIDATION_BATCHES)]


def evaluation_guard() -> Guard:
    """The guard against all public ARC-AGI evaluation tasks."""
    return Guard.against(task for name in ARC_SETS for task in load_tasks(f"{name}:evaluation"))
