"""Few-shot prompts for generators, and what completions of them hold.

A prompt is plain text that any causal language model can continue: instructions, some numbered examples, and the beginning of one
more. There are three ways to ask, as in Akyurek et al. 2024 (arXiv 2411.07279), who had new task generators written for the data
of their fine-tuning:

code       The examples are code alone.
joint      The examples have descriptions. A completion is a description, and code for it.
two-stage  A completion of descriptions alone gives a description. A second prompt has examples with descriptions, and that
           description; its completion is code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from solver.errors import InputError
from solver.pretrain.lm_generators.examples import Example
from solver.pretrain.lm_generators.sandbox.child import MODULES
from solver.pretrain.lm_generators.verdicts import Refused

Way = Literal["code", "joint", "two-stage"]
WAYS: tuple[Way, ...] = get_args(Way)

FENCE = "```"
OPENING = f"{FENCE}python\n"
CLOSING = f"\n{FENCE}"
MAX_DESCRIPTION = 1000  # characters

_RULES = """\
A grid is a list of rows, and a row is a list of colours. A colour is a whole number from 0 to 9, and 0 is the black background. A
grid has 1 to 30 rows and 1 to 30 columns. A puzzle is one rule that turns an input grid into an output grid. Someone who has seen
three pairs of input and output can find the rule.
"""
_CODE = f"""\
For every puzzle there is a Python program. Its function generate(rng), where rng is a random.Random, draws a new input and
returns it with its output. The rule is the same in every call. Programs import nothing but
{", ".join(name for name in MODULES if name != "__future__" and "." not in name)}.
"""


def parse_ways(text: str) -> tuple[Way, ...]:
    """The ways in a list like `code,joint`. Raises InputError for an unknown one."""
    names = [name.strip() for name in text.split(",")]
    ways = tuple(way for way in WAYS if way in names)
    if unknown := [name for name in names if name not in WAYS]:
        raise InputError(f"--prompts: no way {unknown[0]!r} to ask; there are: {', '.join(WAYS)}")
    return ways


def code_prompt(examples: Sequence[Example]) -> str:
    """A prompt for code; the examples have no descriptions."""
    shown = [_example(n, code=example.code) for n, example in enumerate(examples, 1)]
    return "\n".join([_RULES, _CODE, *shown, f"{_heading(len(shown) + 1)}{OPENING}"])


def joint_prompt(examples: Sequence[Example]) -> str:
    """A prompt for a description and code for it."""
    return f"{_described(examples)}{_heading(len(examples) + 1)}Rule:"


def described_prompt(examples: Sequence[Example], description: str) -> str:
    """A prompt for code for a description."""
    return f"{_described(examples)}{_heading(len(examples) + 1)}Rule: {description}\n{OPENING}"


def description_prompt(examples: Sequence[Example]) -> str:
    """A prompt for a description."""
    shown = [f"{_heading(n)}Rule: {example.description}\n" for n, example in enumerate(examples, 1)]
    return "\n".join([_RULES, *shown, f"{_heading(len(shown) + 1)}Rule:"])


def code_in(completion: str, finished: bool) -> str:
    """The code in a completion that begins inside its block. `finished`: the model ended it, so the block may be open.

    Raises Refused if there is none.
    """
    code, closing, _ = f"\n{completion}".partition(CLOSING)
    if not code.strip() or not (closing or finished):
        raise Refused("no code", "the block of code is empty" if not code.strip() else "the block of code is cut off")
    return code.removeprefix("\n")


def description_and_code_in(completion: str, finished: bool) -> tuple[str, str]:
    """Both parts of a completion that begins with a description. Raises Refused if one is missing."""
    before, opening, rest = completion.partition(OPENING)
    if not opening:
        raise Refused("no code", "no block of code")
    return description_in(before), code_in(rest, finished)


def description_in(completion: str) -> str:
    """The first line of text in a completion. Raises Refused if there is none, or if it is too long."""
    line = completion.strip().partition("\n")[0].strip()
    if not line or len(line) > MAX_DESCRIPTION or line.startswith((FENCE, "#")):
        raise Refused("no code", "no description")
    return line


def code_ended(completion: str) -> bool:
    """Whether a completion for `code_prompt` or `described_prompt` has all that `code_in` reads."""
    return CLOSING in f"\n{completion}"


def joint_ended(completion: str) -> bool:
    """Whether a completion for `joint_prompt` has all that `description_and_code_in` reads."""
    return code_ended(completion.partition(OPENING)[2])


def description_ended(completion: str) -> bool:
    """Whether a completion for `description_prompt` has all that `description_in` reads."""
    return "\n" in completion.lstrip()


def _described(examples: Sequence[Example]) -> str:
    shown = [_example(n, f"Rule: {example.description}\n", example.code) for n, example in enumerate(examples, 1)]
    return "\n".join([_RULES, _CODE, *shown, ""])


def _example(number: int, rule: str = "", code: str = "") -> str:
    return f"{_heading(number)}{rule}{OPENING}{code}{CLOSING}\n"


def _heading(number: int) -> str:
    return f"### Puzzle {number}\n"
