"""`solver make-corpus lm`: from the options of the command line to a corpus of LM-written generators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.model import threads
from solver.model.folder import EMBEDDED
from solver.model.shipped import model_named
from solver.pretrain.command import evaluation_guard
from solver.pretrain.lm_generators.corpus import LmCorpusOptions, make_lm_corpus
from solver.pretrain.lm_generators.prompts import parse_ways
from solver.pretrain.lm_generators.sandbox.process import Form
from solver.pretrain.lm_generators.writing import WritingOptions


def make_corpus(
    out: Path,
    *,
    model: str | None,
    completions: int,
    pairs: int,
    prompts: str,
    shots: int,
    temperature: float,
    max_new_tokens: int,
    engine: str,
    device: str,
    sandbox: Form,
    seed: int,
    processes: int,
    report: Callable[[str], None],
) -> str:
    """Make a corpus; see `make_lm_corpus`. Gives the line that sums it up. Raises InputError."""
    if model is None:
        raise InputError("lm needs the model that writes: --model DIR")
    options = LmCorpusOptions(
        completions=completions,
        pairs=pairs,
        writing=WritingOptions(parse_ways(prompts), shots, temperature, max_new_tokens, seed),
        form=sandbox,
        processes=processes,
        model=ModelSettings(device=device),
        infer=InferSettings.model_validate({"engine": engine}),
    )
    threads.govern()
    funnel = make_lm_corpus(out, model_named(model) or EMBEDDED, options, evaluation_guard, report)
    return f"{out}: {funnel.line()}"
