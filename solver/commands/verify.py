"""`solver verify`: trains verifiers on labelled samples, and measures what they are worth on other samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solver.arc.jsonfile import write_json
from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.folder import check_folder, folder_identity
from solver.model.value_head import check_same_tokens
from solver.report.paired import Paired
from solver.report.scores import share_text
from solver.types import NEVER, Deadline
from solver.verify.compare import RULES, Group, any_right, over_samples, over_votes, pair_order, solved
from solver.verify.pictures import plot, token_texts, write_solutions
from solver.verify.pooling import POOLINGS
from solver.verify.ranking import best
from solver.verify.samples import read_samples
from solver.verify.scoring import ScoredProblem, progress, score_samples, write_values
from solver.verify.training import VerifierOptions, train_verifier
from solver.verify.verifier import load_model, load_verifier

Report = Callable[[str], None]


def train(
    samples: Path,
    generator: Path,
    out: Path,
    options: VerifierOptions,
    start: Path | None = None,
    language: Path | None = None,
    seconds: float | None = None,
    report: Report = lambda _: None,
) -> str:
    """Train a verifier on a file of samples of the model `generator` and write it to `out`; gives a line to show.

    It starts from `start`, a model over the same tokens, or from the generator. `language` is a file of samples whose right ones
    are learnt by the joint loss, such as reference solutions; None: those of `samples`. After `seconds` training stops.
    Raises InputError if another model sampled the samples, or a file or folder cannot be used.
    """
    deadline = NEVER if seconds is None else Deadline.after(seconds)
    for folder in (generator, start or generator):
        check_folder(folder)
    identity = folder_identity(generator)
    labelled = read_samples(samples, identity)
    written = None if language is None else read_samples(language, identity)
    if start is not None:
        check_same_tokens(start, generator)
    base = load_model(start or generator, ModelSettings())
    right = sum(sample.correct for sample in labelled.samples)
    report(f"{len(labelled.samples)} samples of {len(labelled.problems)} problems, {right} right")
    fit = train_verifier(base, labelled, options, out, deadline, written, report)
    return (
        f"{out}: {fit.steps} steps on {fit.tokens:,} tokens in {fit.seconds:.0f} s ({fit.tokens / fit.seconds:,.0f} tokens/s), "
        f"stopped by {fit.reason}"
    )


@dataclass(frozen=True)
class Measured:
    """What `score` found."""

    results: dict[str, Any]  # as results.json
    lines: tuple[str, ...]  # the same in words


def score(
    samples: Path,
    verifier: Path,
    out: Path,
    start: Path | None = None,
    pooling: str = "last",
    seconds: float | None = None,
    report: Report = lambda _: None,
) -> Measured:
    """Score a file of samples, and write values.jsonl, results.json, curves and a page of coloured solutions to the folder `out`.

    `start` is the model that a LoRA verifier was made from. After `seconds`, what was scored by then is measured.
    Raises InputError if another model sampled the samples, or a file or folder cannot be used.
    """
    if pooling not in POOLINGS:
        raise InputError(f"--pool: unknown pooling {pooling!r}; there are: {', '.join(POOLINGS)}")
    deadline = NEVER if seconds is None else Deadline.after(seconds)
    given = read_samples(samples)
    loaded = load_verifier(verifier, ModelSettings(), given.generator, start)
    _make(out)  # before the work: a folder that cannot be made costs nothing then
    total = sum(bool(group) for group in given.by_problem().values())
    scored = list(progress(score_samples(loaded, given, deadline), total, report))
    if not scored:
        raise InputError(f"{samples}: no problem was scored: there are no samples, or no time")
    write_values(out / "values.jsonl", given.generator, loaded.identity, scored)
    measured = measure(scored, pooling)
    write_json(out / "results.json", measured.results | {"problems_not_scored": total - len(scored)})
    draw(scored, pooling, out, report)
    write_solutions(scored, token_texts(loaded.base.path), pooling, out / "solutions.html", f"Values by {verifier.name}")
    return measured


def measure(scored: Sequence[ScoredProblem], pooling: str = "last") -> Measured:
    """The accuracy of every rule with all samples, comparisons with the baselines, and the accuracy of every pooling."""
    groups = [one.judged(pooling) for one in scored]
    right = {name: solved(groups, rule) for name, rule in RULES.items()}
    poolings = {name: solved([one.judged(name) for one in scored], best) for name in POOLINGS}
    most = max(map(len, groups))
    baselines = ("majority vote", "log-probability")
    paired = {
        f"{name} against {other}": Paired.of(right[name], right[other])
        for name in RULES
        if name not in baselines
        for other in baselines
    }
    lines = [f"{len(groups)} problems, up to {most} samples each; score of a solution: {pooling}"]
    lines += [f"{name}: {_share(hits)}" for name, hits in right.items()]
    lines += [f"one sample: {_rate(any_right(groups, 1).share)}, any sample right: {_rate(any_right(groups, most).share)}"]
    order, by_logprob = pair_order(groups), pair_order(groups, lambda one: one.logprob)
    if order.share is not None and by_logprob.share is not None:
        lines.append(
            f"right above wrong in pairs of one problem: by the verifier {_rate(order.share)}, by log-probability "
            f"{_rate(by_logprob.share)} ({order.problems} problems with both; 50 %: no ranking learnt)"
        )
    lines += [f"pooling {name}: {_share(hits)}" for name, hits in poolings.items()]
    lines += [f"{name}: {pair.text()}" for name, pair in paired.items()]
    results = {
        "problems": len(groups),
        "samples": most,
        "pooling": pooling,
        "right": {name: sum(hits) for name, hits in right.items()},
        "poolings": {name: sum(hits) for name, hits in poolings.items()},
        "pairs_in_order": {"verifier": order.share, "log-probability": by_logprob.share, "problems": order.problems},
        "paired": {
            name: {
                "better": pair.better,
                "worse": pair.worse,
                "difference": pair.difference,
                "interval": pair.interval(),
                "p": pair.p(),
            }
            for name, pair in paired.items()
        },
    }
    return Measured(results, tuple(lines))


def draw(scored: Sequence[ScoredProblem], pooling: str, out: Path, report: Report) -> None:
    """The curves over samples and over votes, as PNGs in the folder `out`."""
    groups: list[Group] = [one.judged(pooling) for one in scored]
    title = f"{len(groups)} problems, 95 % intervals"
    plot(over_samples(groups), "samples of a problem", title, out / "samples.png", report)
    plot({"vote of the top": over_votes(groups)}, "best samples that vote", title, out / "votes.png", report)
    by_pooling = {name: over_samples([one.judged(name) for one in scored], {name: best})[name] for name in POOLINGS}
    plot(by_pooling, "samples of a problem", f"score from token values; {title}", out / "poolings.png", report)


def _share(hits: Sequence[bool]) -> str:
    return f"{sum(hits)} of {len(hits)}: {share_text(sum(hits), len(hits))}"


def _rate(share: float) -> str:
    return f"{100 * share:.1f} %"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from None
