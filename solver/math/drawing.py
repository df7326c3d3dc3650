"""Draws solutions from a generator, with the calculator, and grades them.

A sample whose annotations the calculator cannot evaluate is drawn again, as in Cobbe et al. 2021 (arXiv 2110.14168), appendix C,
up to a limit. A sample depends on the seed, its problem and its number alone, so what is drawn again later is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from solver.errors import InputError
from solver.infer.base import Engine
from solver.math.annotations import calculators, chosen, is_well_formed
from solver.math.answers import final_answer
from solver.math.problems import MathProblem
from solver.math.tokens import MathTokenizer
from solver.types import Completion, Deadline, SampleRequest
from solver.verify.samples import Problem, Sample

# An engine draws the samples of several problems together. A call that is killed loses these, so they are not too many.
MAX_CHUNK_SAMPLES = 2048
MAX_CHUNK_PROBLEMS = 64


@dataclass(frozen=True)
class DrawOptions:
    """How solutions are drawn."""

    samples: int = 100  # per problem; 1 at temperature 0
    temperature: float = 0.7
    max_new_tokens: int = 400
    redraws: int = 3  # how often samples with ill-formed annotations are drawn again
    calculator: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Drawn:
    """The solutions of one problem."""

    problem: Problem
    samples: tuple[Sample, ...]  # in random order; duplicates included
    redrawn: int  # samples with an ill-formed annotation, which others took the place of
    ill_formed: int  # samples that still have one after the last redraw; they have no answer


def as_problem(problem: MathProblem, tokenizer: MathTokenizer) -> Problem:
    """A problem as files of samples hold it."""
    return Problem(problem.id, tuple(tokenizer.prompt(problem.question).tolist()), problem.answer)


def draw(
    engine: Engine, tokenizer: MathTokenizer, problems: Sequence[MathProblem], options: DrawOptions, deadline: Deadline
) -> Iterator[Drawn]:
    """The solutions of each problem, in order, as soon as those of a chunk are complete. Stops at the deadline.

    Problems that had all their samples by then are given, too; those before them may be missing.
    A sample that was cut off by `max_new_tokens` has no answer, unless it wrote one. Raises InputError if a problem cannot be
    served, for example because it is longer than the context.
    """
    size = chunk_size(options.samples)
    for first in range(0, len(problems), size):
        chunk = _Chunk(engine, tokenizer, problems[first : first + size], options)
        done = chunk.run(deadline)
        yield from chunk.results()
        if not done:
            return


def chunk_size(samples: int) -> int:
    """How many problems are drawn together if each gets this many samples."""
    return max(1, min(MAX_CHUNK_PROBLEMS, MAX_CHUNK_SAMPLES // samples))


class _Chunk:
    """The samples of some problems while they are drawn."""

    def __init__(self, engine: Engine, tokenizer: MathTokenizer, problems: Sequence[MathProblem], options: DrawOptions) -> None:
        self._engine, self._tokenizer, self._options = engine, tokenizer, options
        self._problems = problems
        self._kept: dict[str, list[Completion]] = {problem.id: [] for problem in problems}
        self._bad: dict[str, list[Completion]] = {}
        self._redrawn = dict.fromkeys(self._kept, 0)
        self._cut: set[str] = set()  # problems for which the time was too short

    def run(self, deadline: Deadline) -> bool:
        """Draw until every problem has its samples or the redraws are used up. False: the deadline came first."""
        for turn in range(self._options.redraws + 1):
            requests = [request for problem in self._problems if (request := self._request(problem, turn)) is not None]
            if not requests:
                break
            self._bad = {request.id: [] for request in requests}
            for result in self._engine.sample(requests, deadline):
                if result.status == "failed":
                    raise InputError(f"problem {result.request}: {result.error}")
                if result.status == "cut":
                    self._cut.add(result.request)
                for completion in result.completions:
                    good = not self._options.calculator or self._is_sound(completion)
                    (self._kept if good else self._bad)[result.request].append(completion)
            for name, bad in self._bad.items():
                self._redrawn[name] += len(bad)
            if self._cut:
                # what would be drawn again is not complete, either
                self._cut |= {problem.id for problem in self._problems if self._request(problem, turn + 1) is not None}
                return False
        return True

    def _request(self, problem: MathProblem, turn: int) -> SampleRequest | None:
        """What is missing of a problem's samples; None: nothing."""
        options = self._options
        missing = options.samples - len(self._kept[problem.id])
        greedy = options.temperature == 0
        if not missing or (greedy and turn):  # the most probable solution would be the same again
            return None
        return SampleRequest(
            problem.id,
            self._tokenizer.prompt(problem.question),
            None,
            missing,
            options.temperature,
            options.max_new_tokens,
            seed=_seed(options.seed, problem.question, turn),
            forcer=calculators(self._tokenizer) if options.calculator else None,
        )

    def _is_sound(self, completion: Completion) -> bool:
        """Whether annotations are right. One that `max_new_tokens` cut off is no reason to draw again."""
        text = self._tokenizer.text(completion.ids)
        return not completion.finished or is_well_formed(text)

    def results(self) -> Iterator[Drawn]:
        """The samples of every problem that is complete."""
        for problem in self._problems:
            if problem.id in self._cut:
                continue
            missing = self._options.samples - len(self._kept[problem.id])
            unsound = self._bad.get(problem.id, [])[:missing]
            samples = [self._sample(problem, one, True) for one in self._kept[problem.id]]
            samples += [self._sample(problem, one, False) for one in unsound]
            # engines give the most probable ones first; in random order the first n are n samples
            Random(_seed(self._options.seed, problem.question, 0)).shuffle(samples)
            redrawn = self._redrawn[problem.id] - len(unsound)
            yield Drawn(as_problem(problem, self._tokenizer), tuple(samples), redrawn, len(unsound))

    def _sample(self, problem: MathProblem, completion: Completion, sound: bool) -> Sample:
        """A graded sample. Its log-probability is that of the tokens which the model chose."""
        text = self._tokenizer.text(completion.ids)
        answer = final_answer(text) if sound else None
        logprobs = completion.logprobs
        if self._options.calculator:
            logprobs = logprobs[chosen(completion.ids, self._tokenizer)]
        return Sample(
            problem=problem.id,
            text=text,
            ids=tuple(completion.ids.tolist()),
            logprob=float(logprobs.sum(dtype="float64")),
            answer=answer,
            correct=answer == problem.answer,
        )


def _seed(seed: int, question: str, turn: int) -> int:
    """A seed of its own for every problem and turn, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{turn}/{question}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
