"""Word problems of several kinds in one collection."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from random import Random

from solver.errors import InputError
from solver.math.problems import MathProblem
from solver.math.reasoning_gym import made_problems, problem_makers
from solver.math.word_problems import Difficulty, make_problems

WORDS = "words"  # the kind that is made without another package
GYM = ("gsm_symbolic", "chain_sum", "leg_counting")
MAX_PASSED_OVER = 100  # for each wanted problem: problems that are known already


def mixed_problems(
    kinds: Sequence[str], count: int, difficulty: Difficulty, seed: int, without: Collection[str] = ()
) -> list[MathProblem]:
    """`count` different problems, as many of each kind, in random order; none with a question in `without`.

    Raises InputError for an unknown kind, for one whose package is missing, and if a kind has not enough different problems.
    """
    for kind in kinds:
        if kind not in (WORDS, *GYM):
            raise InputError(f"unknown kind {kind!r} of problems; there are: {', '.join((WORDS, *GYM))}")
    made: list[MathProblem] = []
    makers = problem_makers() if set(kinds) & set(GYM) else {}
    for place, kind in enumerate(kinds):
        wanted = count // len(kinds) + (place < count % len(kinds))
        endless: Iterator[MathProblem]
        if kind == WORDS:
            endless = itertools.islice(make_problems(seed, difficulty, ""), MAX_PASSED_OVER * max(1, wanted))
        else:
            endless = made_problems(makers[kind], Random(f"{seed}/{kind}"), kind, wanted + len(without))
        found = list(itertools.islice((problem for problem in endless if problem.question not in without), wanted))
        if len(found) < wanted:
            raise InputError(f"only {len(found)} different problems of kind {kind} were found, {wanted} are wanted")
        made += found
    Random(seed).shuffle(made)
    return made
