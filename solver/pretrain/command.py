"""`solver pretrain`: make or continue a base model.

solver pretrain --corpus DIR --minutes 60 --out runs/pretrain
solver pretrain --corpus DIR --minutes 30 --out runs/pretrain --resume runs/pretrain/latest
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from solver.arc.datasets import NAMED_SETS, load_tasks
from solver.arc.task import Task
from solver.codec import grid_codec
from solver.errors import InputError
from solver.model.build import Shape, new_model
from solver.pretrain.checkpoint import Position, load_model
from solver.pretrain.corpora import build_store
from solver.pretrain.guard import Guard, held_out
from solver.pretrain.loop import LoopSettings, train
from solver.pretrain.sampler import Batch, Sampler, SamplerSettings
from solver.pretrain.store import PairStore

PRESETS: Mapping[str, Shape] = {
    "tiny": Shape(hidden=64, layers=2, heads=2, ffn=192),
    "small": Shape(hidden=192, layers=6, heads=3, ffn=576),
    "base": Shape(hidden=256, layers=8, heads=4, ffn=768),
}
MIXTURE: Mapping[str, float] = {
    "rearc": 0.36,
    "arcgen": 0.36,
    "arc1": 0.04,
    "arc2": 0.08,
    "conceptarc": 0.03,
    "miniarc": 0.03,
    "arc1d": 0.03,
    "tama": 0.06,
    "diva": 0.01,
}
VALIDATION_BATCHES = 12
VALIDATION_SEED = 7


@dataclass(frozen=True)
class PretrainOptions:
    """What the command line gives."""

    out: Path
    corpus: Path | None  # a folder of corpus files; None: the ARC-AGI training sets alone
    loop: LoopSettings
    preset: str = "small"
    resume: Path | None = None
    seed: int = 0
    device: str = "cpu"
    sampler: SamplerSettings = field(default_factory=SamplerSettings)


def pretrain(options: PretrainOptions, report: Callable[[str], None]) -> Position:
    """Run the command. Raises InputError for unusable corpora, presets or checkpoints."""
    if options.preset not in PRESETS:
        raise InputError(f"unknown preset {options.preset!r}; there are: {', '.join(PRESETS)}")
    store = load_store(options.corpus, options.out, report)
    kept_out = [held_out(name) for name in store.names]
    codec = grid_codec()
    sampler = Sampler(store.select([not out for out in kept_out]), MIXTURE, codec, options.sampler, options.seed)
    validation = validation_batches(store.select(kept_out), options.sampler)
    model = load_model(options.resume) if options.resume else new_model(PRESETS[options.preset], options.seed)
    model.to(torch.device(options.device))
    report(
        f"{model.num_parameters():,} parameters; {len(store) - sum(kept_out)} families to learn from, "
        f"{sum(kept_out)} held out; {torch.get_num_threads()} threads on {options.device}"
    )
    return train(model, sampler, validation, options.loop, options.out, options.resume, options.seed, report)


def load_store(corpus: Path | None, out: Path, report: Callable[[str], None]) -> PairStore:
    """All corpora behind the guard, cached in `out` by the names, sizes and times of their files."""
    files: list[Path] = []
    if corpus is not None:
        if not corpus.is_dir():
            raise InputError(f"{corpus}: no such folder of corpus files")
        files = sorted(p for p in corpus.iterdir() if p.name.endswith((".json", ".json.xz")))
        if not files:
            raise InputError(f"{corpus}: no corpus files (*.json, *.json.xz)")
    identity = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    cache = out / f"corpus-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}.npz"
    if cache.is_file():
        report(f"corpus from {cache}")
        return PairStore.load(cache)
    arc = arc_sets()
    guard = Guard.against([*arc["arc1:evaluation"], *arc["arc2:evaluation"]])
    store = build_store(files, guard, report, {"arc1": arc["arc1:training"], "arc2": arc["arc2:training"]})
    out.mkdir(parents=True, exist_ok=True)
    store.save(cache)
    return store


def validation_batches(store: PairStore, settings: SamplerSettings) -> list[Batch]:
    """Fixed batches of families that training never sees, generators alone (their rules are known to be sound)."""
    generators = store.select([source in ("rearc", "arcgen") for source in store.sources])
    if not len(generators):
        generators = store
    sampler = Sampler(generators, {}, grid_codec(), settings, VALIDATION_SEED)
    stream = sampler.batches(0, 0)
    return [next(stream)[2] for _ in range(VALIDATION_BATCHES)]


def arc_sets() -> dict[str, list[Task]]:
    """The four public ARC-AGI sets by name, outputs known."""
    return {name: list(load_tasks(name)) for name in NAMED_SETS}
