"""Shows profiles as tables: on the screen, between markers in a document, and beside an older profile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from solver.budget.profile import Profile, Row, Variant, ratios
from solver.errors import InputError
from solver.textfile import read_text

COLUMNS = (  # "10 steps" and "1000 steps" as Barbadillo's tables of training on Kaggle have them (ironbar, ARC24)
    "quantisation",
    "tokens",
    "s/step",
    "tokens/s",
    "MFU",
    "10 steps (min)",
    "1000 steps (h)",
    "prefill tokens/s",
    "decode tokens/s",
    "search nodes/s",
    "peak GB",
)


def cells(variant: Variant, row: Row) -> list[str]:
    """One row of the table, in the order of `COLUMNS`; a dash for what was not measured."""
    step = row.step_seconds
    prefill = row.prefill_seconds
    return [
        variant.quantization,
        f"{row.tokens:,}",
        number(step),
        number(variant.batch * row.tokens / step if step else None),
        "-" if row.mfu is None else f"{row.mfu:.1%}",
        number(10 * step / 60 if step else None),
        number(1000 * step / 3600 if step else None),
        number(row.tokens / prefill if prefill else None),
        number(row.decode_rate),
        number(row.search_rate),
        "-" if row.peak_memory is None else f"{row.peak_memory / 1e9:.2f}",
    ]


def number(value: float | None) -> str:
    """Three significant digits, and no fewer than a whole number has."""
    if value is None:
        return "-"
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def lines_about(profile: Profile) -> Iterator[str]:
    """Lines about the machine, the model and the settings of a profile, and whether its numbers were measured."""
    machine, model = profile.machine, profile.model
    threads = f", {machine.threads} thread{'s' if machine.threads > 1 else ''}" if machine.threads else ""
    devices = f"{machine.devices} x " if machine.devices > 1 else ""
    one = ", one worker on each" if machine.devices > 1 else ""
    yield f"{model.name} ({model.parameters:,} weights) on {devices}{machine.device}{threads}{one}"
    if profile.estimate:
        yield f"NOT MEASURED, an {profile.derivation}"
    else:
        yield f"measured {profile.measured_at}, commit {profile.commit or 'unknown'}"
    if machine.peak_flops is not None and machine.bandwidth is not None:
        peak = f"{machine.peak_flops / 1e12:.3g} TFLOP/s and {machine.bandwidth / 1e9:.3g} GB/s"
        yield f"MFU is of {machine.peak_flops / 1e12:.3g} TFLOP/s; the device has {peak} ({machine.source})"
    for v in profile.variants:
        weights = "all weights" if v.rank == 0 else f"LoRA of rank {v.rank}"
        yield (
            f"{v.quantization}: {v.dtype}; trainer {v.trainer}, {weights}, {v.batch} sequences a step; engine {v.engine}, "
            f"{v.views} prompts together; {v.start_seconds:.1f} s until a worker is ready (imports {v.import_seconds:.1f}, model "
            f"{v.load_seconds:.1f}, trainer {v.trainer_seconds:.1f}, engine {v.engine_seconds:.1f}); "
            f"a fit takes {v.fit_seconds:.2f} s besides its steps"
        )


def notes(profile: Profile) -> Iterator[str]:
    """Lines about the numbers that could not be measured, and why."""
    for variant in profile.variants:
        for row in variant.rows:
            if row.note:
                yield f"{variant.quantization}, {row.tokens:,} tokens: {row.note}"


def profile_tables(profile: Profile) -> Iterator[Table]:
    """For a terminal of 80 columns: one table for each quantisation."""
    for variant in profile.variants:
        table = Table(title=variant.quantization, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
        for column in COLUMNS[1:]:
            table.add_column(
                column.replace(" ", "\n").replace("tokens/s", "tok/s"), justify="right", vertical="bottom", no_wrap=True
            )
        for row in variant.rows:
            table.add_row(*cells(variant, row)[1:], style="dim" if profile.estimate else "")
        yield table


def comparison_table(new: Profile, old: Profile) -> Table:
    """Every number that both profiles have, and the ratio of new to old."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("quantisation", "tokens", "what", "new", "old", "new / old"):
        table.add_column(column, justify="left" if column in ("quantisation", "what") else "right")
    for quantization, tokens, what, a, b in ratios(new, old):
        ratio = f"{a / b:.2f}" if b else "-"
        table.add_row(quantization, f"{tokens:,}" if tokens else "", escape(what.replace("_", " ")), number(a), number(b), ratio)
    return table


def markdown(profile: Profile) -> str:
    """The profile as a Markdown table. If the numbers were not measured, their columns say "estimate"."""
    rows = [cells(variant, row) for variant in profile.variants for row in variant.rows]
    suffix = ", estimate" if profile.estimate else ""
    head = [*COLUMNS[:2], *(f"{column}{suffix}" for column in COLUMNS[2:])]
    table = [_line(head), _line(["---", *["---:"] * (len(COLUMNS) - 1)]), *map(_line, rows)]
    about = "\n".join(f"- {line}" for line in (*lines_about(profile), *notes(profile)))
    return "\n".join([*table, "", about])


def _line(parts: Iterable[str]) -> str:
    return f"| {' | '.join(parts)} |"


# -- documents


def markers(name: str) -> tuple[str, str]:
    """The lines between which the table of a machine stands."""
    return f"<!-- profile {name}: written by `solver profile --table` -->", f"<!-- end of profile {name} -->"


def replace_between(text: str, name: str, body: str) -> str:
    """`text` with `body` between the markers of `name`, nothing else changed.

    Raises InputError if the markers are not there, or not once each, in order.
    """
    begin, end = markers(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"needs the lines {begin} and {end} once, in this order")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{body}\n{end}{rest.partition(end)[2]}"


def check_document(document: Path, name: str | None) -> None:
    """Check, before minutes of measuring, that a table can be written to `document`. Raises InputError as `rewrite_table` does.

    Without the `name` of a machine preset only the file is checked: the markers depend on the device, which is not known yet.
    """
    text = read_text(document, "document")
    try:
        if name is not None:
            replace_between(text, name, "")
    except InputError as error:
        raise InputError(f"{document}: {error}") from None


def rewrite_table(document: Path, profile: Profile) -> None:
    """Put the table of a profile into a document, between the markers of its machine preset (`cpu`, `cuda` without one).

    Raises InputError if the document cannot be read or written, or lacks the markers.
    """
    name = profile.machine.preset or profile.machine.kind
    with_newlines = _read_exactly(document)
    body = re.sub(r"<!--.*?-->", "", markdown(profile))
    try:
        text = replace_between(with_newlines, name, body)
    except InputError as error:
        raise InputError(f"{document}: {error}") from None
    if text == with_newlines:
        return
    temporary = document.with_name(f".{document.name}.tmp")
    try:
        temporary.write_bytes(text.encode())
        temporary.replace(document)
    except OSError as error:
        raise InputError(f"{document}: cannot be written: {error.strerror or error}") from None


def _read_exactly(document: Path) -> str:
    """The text of a document with its line ends unchanged."""
    read_text(document, "document")  # for its errors
    return document.read_bytes().decode()
