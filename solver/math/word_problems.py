"""Word problems of several steps, made here, with calculator annotations: something to learn in minutes, without any download.

A problem tells what some people have, each in terms of another one, and asks for the amount of one of them, for a total or for a
difference. Its solution says one step a line, as GSM8K does: `Ben has <<12+5=17>>17.` How many people there are, how many of them
the question needs, and whether the sentences come in the order of the steps decide how difficult it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from solver.errors import InputError
from solver.math.problems import MathProblem

NAMES = ("Ann", "Ben", "Cora", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivan", "Jill", "Kim", "Leo")
THINGS = ("apples", "books", "cards", "coins", "eggs", "marbles", "pens", "shells")
MAX_AMOUNT = 200  # no amount in a problem is larger, except a total
MAX_TRIES = 1000  # draws for one problem


@dataclass(frozen=True)
class Difficulty:
    """How difficult problems are."""

    min_people: int = 2
    max_people: int = 5
    shuffled: float = 0.5  # share of problems whose sentences are not in the order of the steps
    unneeded: float = 0.3  # share of problems with a person that the question does not need

    def __post_init__(self) -> None:
        if not 2 <= self.min_people <= self.max_people <= len(NAMES):
            raise InputError(f"problems have {self.min_people} to {self.max_people} people; it has to be 2 to {len(NAMES)}")


@dataclass(frozen=True)
class _Step:
    """How one amount follows from another: the sentence of the problem, the expression, and the result."""

    sentence: str
    expression: str
    result: int


def _first(rng: Random, name: str, thing: str) -> _Step:
    if rng.random() < 0.5:
        amount = rng.randint(2, 60)
        return _Step(f"{name} has {amount} {thing}.", "", amount)
    boxes, each = rng.randint(2, 9), rng.randint(2, 12)
    return _Step(f"{name} has {boxes} boxes with {each} {thing} in each.", f"{boxes}*{each}", boxes * each)


def _more(rng: Random, name: str, other: str, have: int) -> _Step:
    more = rng.randint(2, 40)
    return _Step(f"{name} has {more} more than {other}.", f"{have}+{more}", have + more)


def _fewer(rng: Random, name: str, other: str, have: int) -> _Step:
    fewer = rng.randint(2, 40)
    return _Step(f"{name} has {fewer} fewer than {other}.", f"{have}-{fewer}", have - fewer)


def _times(rng: Random, name: str, other: str, have: int) -> _Step:
    times = rng.randint(2, 5)
    return _Step(f"{name} has {times} times as many as {other}.", f"{have}*{times}", have * times)


def _part(rng: Random, name: str, other: str, have: int) -> _Step:
    words, divisor = rng.choice((("half as many as", 2), ("a third as many as", 3), ("a quarter as many as", 4)))
    return _Step(f"{name} has {words} {other}.", f"{have}/{divisor}", have // divisor if have % divisor == 0 else 0)


_RELATIONS: tuple[Callable[[Random, str, str, int], _Step], ...] = (_more, _fewer, _times, _part)


def make_problem(rng: Random, difficulty: Difficulty, id_: str) -> MathProblem:
    """One problem with its solution."""
    for _ in range(MAX_TRIES):
        made = _draw(rng, difficulty, id_)
        if made is not None:
            return made
    raise AssertionError("no problem was found")  # of 2 to 5 people every second draw gives one, of 12 every 46th


def _draw(rng: Random, difficulty: Difficulty, id_: str) -> MathProblem | None:
    """A problem, or None if the amounts of this draw are too large, too small or not whole."""
    people = rng.randint(difficulty.min_people, difficulty.max_people)
    spare = people > 2 and rng.random() < difficulty.unneeded
    names, thing = rng.sample(NAMES, people), rng.choice(THINGS)
    steps = [_first(rng, names[0], thing)]
    source = [-1]
    for number in range(1, people):
        # the last person of the story that the question needs is reached by a chain; a person beside it is not needed
        other = number - 1 if rng.random() < 0.7 else rng.randrange(number)
        steps.append(rng.choice(_RELATIONS)(rng, names[number], names[other], steps[other].result))
        source.append(other)
    if not all(0 < step.result <= MAX_AMOUNT for step in steps):
        return None
    asked = people - 2 if spare else people - 1
    needed = _ancestors(asked, source)
    rest = [number for number in needed if number != asked]
    kind = rng.choice(("one", "total", "difference"))
    order = list(range(people))
    if rng.random() < difficulty.shuffled:
        rng.shuffle(order)
    lines = [_line(names[number], steps[number]) for number in needed if steps[number].expression]
    if kind == "one" or not rest:
        question, last = f"How many {thing} does {names[asked]} have?", steps[asked].result
    elif kind == "total":
        other = rng.choice(rest)
        pair = sorted((asked, other))
        a, b = (steps[number].result for number in pair)
        question, last = f"How many {thing} do {names[pair[0]]} and {names[pair[1]]} have together?", a + b
        lines.append(f"Together <<{a}+{b}={last}>>{last}.")
    else:
        other = rng.choice(rest)
        high, low = sorted((asked, other), key=lambda number: -steps[number].result)
        a, b = steps[high].result, steps[low].result
        if a == b:
            return None
        question, last = f"How many more {thing} does {names[high]} have than {names[low]}?", a - b
        lines.append(f"Difference <<{a}-{b}={last}>>{last}.")
    if not lines:
        return None
    story = " ".join(steps[number].sentence for number in order)
    return MathProblem(id_, f"{story} {question}", "\n".join(lines), str(last))


def _ancestors(number: int, source: list[int]) -> list[int]:
    """The people that the amount of `number` follows from, itself included, in the order of the steps."""
    chain = []
    while number >= 0:
        chain.append(number)
        number = source[number]
    return chain[::-1]


def _line(name: str, step: _Step) -> str:
    return f"{name} has <<{step.expression}={step.result}>>{step.result}."


def make_problems(seed: int, difficulty: Difficulty, prefix: str) -> Iterator[MathProblem]:
    """Different problems without end. The same seed and difficulty give the same ones; `prefix` begins their ids."""
    rng = Random(f"{seed}/{prefix}")
    seen: set[str] = set()
    while True:
        problem = make_problem(rng, difficulty, f"{prefix}{len(seen)}")
        if problem.question not in seen:
            seen.add(problem.question)
            yield problem
