"""`solver pretrain`: make or continue a base model of this package, or fine-tune another model on the same data.

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
from solver.pretrain.corpora import READER_VERSION, build_store, lm_written
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
# usual shares of the sources; a source that is not listed has the share 1
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
    """The options of the command line."""

    out: Path
    corpus: Path | None  # a corpus file or a folder of them; None: the ARC-AGI training sets and procedural families alone
    loop: LoopSettings
    preset: str | None = None  # size of a new model; None: DEFAULT_PRESET
    resume: Path | None = None
    init: Path | None = None  # folder of a causal language model to fine-tune, in place of a grid model
    lora_rank: int | None = None  # with `init`: train LoRA matrices of that rank in place of all weights
    seed: int = 0
    device: str = "cpu"
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    mixture: Mapping[str, float] = field(default_factory=lambda: MIXTURE)  # shares of the sequences, by source


def pretrain(options: PretrainOptions, report: Callable[[str], None]) -> Position:
    """Train, as one process of a group if torchrun has started several. Gives the position at the end.

    `report` gets the lines of the first process. Raises InputError for unusable options, corpora, models or checkpoints.
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
        group.wait()  # until the first process has packed the corpora
    store = load_store(options.corpus, options.out, guard, report)
    if group.leads:
        group.wait()
    kept_out = [held_out(name) for name in store.names]
    training_store, endless = store.select([not out for out in kept_out]), {"procedural": Procedural(guard)}
    mixture = with_usual_shares(options.mixture, training_store, report)
    _check_mixture(mixture, {*training_store.sources, *endless})
    sampler = Sampler(training_store, mixture, codec, options.sampler, seed, endless)
    validation = validation_batches(store.select(kept_out), guard, options.sampler, codec)
    trained = sum(p.numel() for p in target.parameters().values())
    devices = options.device if group.size == 1 else f"{options.device}, {group.size} processes"
    report(
        f"{target.kind}: {trained:,} trained parameters; {len(training_store)} stored families to train on, "
        f"{sum(kept_out)} held out; procedural families are made as needed; {torch.get_num_threads()} threads on {devices}"
    )
    return train(target, sampler, validation, options.loop, options.out, options.resume, seed, report, group=group)


def _silent(_: str) -> None:
    """The report of all processes but the first, whose lines would only repeat."""


def _check_device(name: str) -> None:
    """Raises InputError, worded for the option --device, for a device that this machine does not have."""
    try:
        pick_device(name)
    except InputError as error:
        raise InputError(str(error).replace("setting model.device", "--device")) from None


def _data_seed(options: PretrainOptions, report: Callable[[str], None]) -> int:
    """The seed of the data. A checkpoint brings its own, because its position has no meaning in the data of another seed."""
    position = None if options.resume is None else read_position(options.resume)
    if position is None or position.seed == options.seed:
        return options.seed
    report(f"the data goes on from the position of {options.resume}, with its seed {position.seed}")
    return position.seed


def with_usual_shares(mixture: Mapping[str, float], store: PairStore, report: Callable[[str], None]) -> Mapping[str, float]:
    """The mixture, in which LM-written sources that it does not name have the share 0.

    Akyurek et al. 2024 (arXiv 2411.07279) found that such generators made their results worse.
    """
    off = sorted(lm_written(store) - mixture.keys())
    for source in off:
        report(f"{source}: a language model wrote its generators; none is drawn unless --mixture {source}=SHARE says so")
    return {**mixture, **dict.fromkeys(off, 0.0)}


def _check_mixture(mixture: Mapping[str, float], sources: set[str]) -> None:
    """Raises InputError for shares of unknown sources, and if nothing is left to draw. Sources of MIXTURE may be missing."""
    unknown = sorted(mixture.keys() - MIXTURE.keys() - sources)
    if unknown:
        raise InputError(f"--mixture: no source {unknown[0]!r}; there are: {', '.join(sorted(sources))}")
    if not any(mixture.get(source, 1.0) for source in sources):
        raise InputError(f"--mixture: every source there is has the share 0: {', '.join(sorted(sources))}")


def make_target(options: PretrainOptions) -> PretrainTarget:
    """What the options train. Raises InputError for options that exclude each other and for unusable models."""
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
        raise InputError("--preset sets the size of a new model; a model given with --init has its own size")
    if options.resume is not None and read_state(options.resume) is None:
        raise InputError(f"{options.resume}: not a checkpoint of a fine-tuning (no state.json)")
    if options.lora_rank is None:
        return FullTarget(options.init, options.device)
    return LoraTarget(options.init, options.lora_rank, options.device, options.seed)


def _check_preset(preset: str, old: Any, new: Any, folder: Path) -> None:
    """Raises InputError if the model of a checkpoint is of another type or size than the preset: it cannot be changed."""
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    if old.model_type != new.model_type:
        raise InputError(
            f"{folder}: a model of type {old.model_type}; --preset {preset} is of type {new.model_type}: leave --preset out"
        )
    if any(getattr(old, name) != getattr(new, name) for name in sizes):
        raise InputError(f"{folder}: the model is not of the size {preset}: leave --preset out to go on with its own size")


def load_store(corpus: Path | None, out: Path, guard: Guard, report: Callable[[str], None]) -> PairStore:
    """All families of the corpora and the ARC-AGI training sets that the guard lets through.

    They are cached in `out`, by the names, sizes and times of the corpus files and by the guard. Raises InputError for unusable
    corpora.
    """
    files = corpus_files(corpus)
    identity = (READER_VERSION, guard.identity, [(name, facts.st_size, facts.st_mtime_ns) for name, facts in files.values()])
    cache = out / f"corpus-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}.npz"
    if cache.is_file():
        try:
            store = PairStore.load(cache)
            report(f"corpus from the cache {cache}")
            return store
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
            report(f"{cache}: the cache is damaged and is made again")
    store = build_store(list(files), guard, report, {name: list(load_tasks(f"{name}:training")) for name in ARC_SETS}, corpus)
    partial = cache.with_name(f".partial-{cache.name}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        store.save(partial)
        partial.replace(cache)
    except OSError as error:  # the training can do without; the next start reads the corpora again
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        report(f"{cache}: the cache cannot be written: {error.strerror}")
    return store


def corpus_files(corpus: Path | None) -> dict[Path, tuple[str, os.stat_result]]:
    """The corpus files of a folder, or the given file, each with its path below the folder and its status.

    Raises InputError if there are none, or if one cannot be read.
    """
    if corpus is None:
        return {}
    if not corpus.is_dir():
        if not corpus.is_file():
            raise InputError(f"{corpus}: no such folder of corpus files")
        return {corpus: (corpus.name, corpus.stat())}
    paths = data_files(corpus)
    if not paths:
        raise InputError(f"{corpus}: no corpus: the folder holds {describe_folder(corpus)}")
    files = {}
    for file in paths:
        try:
            files[file] = (file.relative_to(corpus).as_posix(), file.stat())
        except OSError as error:
            raise InputError(f"{file}: cannot read the corpus: {error.strerror}") from None
    return files


def corpora_digest(corpus: Path | None) -> str:
    """A digest of the names and sizes of the corpus files, independent of where the folder lies. Raises InputError."""
    facts = [(name, facts.st_size) for name, facts in corpus_files(corpus).values()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def validation_batches(store: PairStore, guard: Guard, settings: SamplerSettings, codec: Codec) -> list[Batch]:
    """VALIDATION_BATCHES batches of held-out families, the same for every training on the same corpora.

    They are families of the generators `rearc` and `arcgen`, whose rules are known to be sound. If the corpora have none that
    fits a sequence, they are held-out procedural families.
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
