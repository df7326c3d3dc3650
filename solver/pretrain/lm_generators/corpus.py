"""A corpus of generators that a language model wrote: `solver make-corpus lm`.

solver make-corpus lm corpora/lm.json.xz --model Qwen3-4B --completions 2000

The model continues prompts with examples of ours, see `lm_generators.prompts`. What it writes runs in locked processes, see
`lm_generators.sandbox`: nothing of it is run, imported or compiled in this process. Pairs of those that pass the filters make up
the corpus, a family for each. Beside it lie a record of all completions and a summary.

No mixture has such families, unless it names their source: Akyurek et al. 2024 (arXiv 2411.07279) found that 6,426 generators
written by a language model made their results 5 % worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from solver.arc.jsonfile import replace_file
from solver.arc.layouts import stem
from solver.arc.task import Pair
from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.host import cores
from solver.model.folder import check_folder, folder_identity
from solver.pretrain.corpora import LM_FAMILY
from solver.pretrain.corpus_file import Pairs, check_name, write_families, writing
from solver.pretrain.guard import Guard
from solver.pretrain.lm_generators.examples import load_examples
from solver.pretrain.lm_generators.filters import Known, judge
from solver.pretrain.lm_generators.record import Judged, Record, pairs_json
from solver.pretrain.lm_generators.sandbox.process import Form, Sandbox, open_sandbox
from solver.pretrain.lm_generators.verdicts import KEPT, Funnel, Refused
from solver.pretrain.lm_generators.writing import SAMPLES, Writer, WritingOptions, Written

# prompts that are written together: a call that is killed loses these, and shows no progress before they are written
GPU_PROMPTS, CPU_PROMPTS = 16, 4

Report = Callable[[str], None]


@dataclass(frozen=True)
class LmCorpusOptions:
    """The options of the command line."""

    completions: int = 200
    pairs: int = 40  # of a family, at most
    writing: WritingOptions = field(default_factory=WritingOptions)
    form: Form = "full"
    processes: int = 0  # that run generators at a time; 0: one for each core
    model: ModelSettings = field(default_factory=ModelSettings)
    infer: InferSettings = field(default_factory=InferSettings)


def make_lm_corpus(out: Path, model: Path, options: LmCorpusOptions, make_guard: Callable[[], Guard], report: Report) -> Funnel:
    """Write a corpus to `out` (.json or .json.xz) with generators of the model in a folder. Gives what became of completions.

    The same call goes on where it was stopped. If no generator passes the filters, `out` is not written. Raises InputError if
    `out` exists or cannot be written, if the model cannot be used or cannot write programs, if the record beside `out` is of
    another model or other options, and if this system does not offer what the sandbox needs.
    """
    check_name(out)
    if out.exists():
        raise InputError(f"{out}: exists already; give another name, or remove it")
    check_folder(model)
    prompts = -(-options.completions // SAMPLES)
    with (
        open_sandbox(options.form) as sandbox,
        Record(record_file(out), folder_identity(model), _identity(options)) as record,
        ThreadPoolExecutor(options.processes or cores()) as threads,
    ):
        missing = [number for number in range(prompts) if number not in record.done]
        if record.done:
            report(f"{record.path}: has {prompts - len(missing)} of {prompts} prompts")
        writer = Writer(model, options.model, options.infer, options.writing) if missing else None
        guard = make_guard()

        def judged(written: Iterable[Written]) -> list[Judged]:
            return list(threads.map(lambda one: _judged(one, sandbox, options.pairs, guard), written))

        if writer is not None:
            _write_missing(missing, writer, judged, record, report)
        examples = judged(Written("code", (), code=example.code) for example in load_examples())
        return _finish(out, record, prompts, examples, report)


def record_file(out: Path) -> Path:
    """The file with all completions."""
    return out.with_name(f"{stem(out)}.completions.ndjson")


def summary_file(out: Path) -> Path:
    """The file that says how many completions passed each filter."""
    return out.with_name(f"{stem(out)}.summary.md")


def _identity(options: LmCorpusOptions) -> dict[str, Any]:
    """The options on which the completions of a prompt, and their pairs, depend."""
    chosen = asdict(options.writing) | {"ways": list(options.writing.ways), "pairs": options.pairs}
    return chosen | {"examples": [example.name for example in load_examples()]}


def _write_missing(
    missing: Sequence[int], writer: Writer, judged: Callable[[Iterable[Written]], list[Judged]], record: Record, report: Report
) -> None:
    """Have the model write the completions of the missing prompts, and record what becomes of them."""
    verdicts: list[str] = []
    together = GPU_PROMPTS if writer.on_gpu else CPU_PROMPTS
    for first in range(0, len(missing), together):
        numbers = missing[first : first + together]
        report(f"prompts {first + 1} to {first + len(numbers)} of {len(missing)}: the model writes")
        written = writer.write(numbers)
        report(f"prompts {first + 1} to {first + len(numbers)} of {len(missing)}: what it wrote runs")
        found = iter(judged(one for completions in written for one in completions))
        for number, completions in zip(numbers, written, strict=True):
            lines = [next(found) for _ in completions]
            record.add(number, lines)
            verdicts += [one.verdict for one in lines]
        report(f"so far {Funnel.of(verdicts).line()}")


def _judged(written: Written, sandbox: Sandbox, count: int, guard: Guard) -> Judged:
    """What becomes of a completion, before duplicates are dropped."""

    def as_judged(verdict: str, detail: str = "", pairs: tuple[Pair, ...] = ()) -> Judged:
        return Judged(written.way, written.shown, written.description, written.code, verdict, detail, pairs)

    try:
        if written.problem:
            raise Refused("no code", written.problem)
        return as_judged(KEPT, pairs=judge(sandbox, written.code, count, guard))
    except Refused as refused:
        return as_judged(refused.reason, refused.detail)


def _finish(out: Path, record: Record, prompts: int, examples: Iterable[Judged], report: Report) -> Funnel:
    """Drop duplicates, and write the corpus and the summary of the first `prompts` prompts. Raises InputError."""
    known = Known()
    for example in examples:
        known.add(example.pairs)
    families: dict[str, Pairs] = {}
    verdicts: list[str] = []
    for number, completions in record.read():
        if number >= prompts:
            continue
        for place, one in enumerate(completions):
            is_new = one.verdict == KEPT and known.add(one.pairs)
            verdicts.append("duplicate" if one.verdict == KEPT and not is_new else one.verdict)
            if is_new:
                families[f"{LM_FAMILY}{number:05d}-{place}"] = pairs_json(one.pairs)
    funnel = Funnel.of(verdicts)
    try:
        replace_file(summary_file(out), f"{funnel.line()}\n\n{funnel.table()}".encode())
    except OSError as error:
        raise InputError(f"{summary_file(out)}: cannot be written: {error.strerror or error}") from None
    if families:
        with writing(out) as partial:
            write_families(partial, out, families)
    else:
        report(f"{out}: not written, because no generator passed the filters")
    return funnel
