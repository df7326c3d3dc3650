from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from digit_samples import CODEC

from solver.arc.grid import grid_key
from solver.arc.tally import Tally
from solver.arc.task import Pair, Task
from solver.config import ModelSettings
from solver.types import NEVER, Candidate, Deadline, Program
from solver.verify.grids import GridJudge, by_scores, grid_samples, text_of, views
from solver.verify.samples import SampleSet
from solver.verify.training import VerifierOptions, train_verifier
from solver.verify.verifier import Verifier, load_model, load_verifier

FP32 = ModelSettings(dtype="float32", device="cpu")


def grid(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)


def candidate(cells: np.ndarray, logprob: float = -1.0) -> Candidate:
    return Candidate(cells, "identity/0123456789/", logprob, "greedy", "a")


TASK = Task("t", (Pair(grid([1, 2]), grid([2, 1])), Pair(grid([3, 4]), grid([4, 3]))), (Pair(grid([5, 6]), None),))
RIGHT, WRONG = grid([6, 5]), grid([5, 6], [1, 2])
TALLY = Tally.of([candidate(WRONG), candidate(WRONG, -0.5), candidate(RIGHT, -2.0)])


@pytest.fixture(scope="module")
def verifier(tiny_base: Path, generator: str, tmp_path_factory: pytest.TempPathFactory) -> Verifier:
    """Trained to prefer the right grid of the one task."""
    made = list(grid_samples(CODEC, 512, TASK, 0, TALLY, RIGHT, views(4)))
    problems = tuple(problem for problem, _ in made)
    samples = SampleSet(generator, problems, tuple(one for _, them in made for one in them))
    folder = tmp_path_factory.mktemp("grids") / "verifier"
    options = VerifierOptions(lr=1e-2, batch_sequences=8, epochs=30)
    train_verifier(load_model(tiny_base, FP32), samples, options, folder, NEVER)
    return load_verifier(folder, FP32, generator)


def test_candidates_are_samples_under_every_view() -> None:
    made = list(grid_samples(CODEC, 512, TASK, 0, TALLY, RIGHT, views(8)))
    assert [problem.id for problem, _ in made][:2] == ["t/0/identity", "t/0/rot90"]
    assert len({problem.prompt for problem, _ in made}) > 2
    for (problem, samples), view in zip(made, views(8), strict=True):
        assert problem.answer == text_of(RIGHT) == "65"
        assert [(one.answer, one.correct, one.logprob) for one in samples] == [("56/12", False, -0.5), ("65", True, -2.0)]
        for one, cells in zip(samples, (WRONG, RIGHT), strict=True):
            decoded = CODEC.decode_answer(one.ids)
            assert decoded is not None
            assert np.array_equal(view.undo(decoded), cells)
    assert list(grid_samples(CODEC, 9, TASK, 0, TALLY, RIGHT, views(1))) == []  # longer than the context


def test_the_judge_gives_the_mean_over_the_views(verifier: Verifier) -> None:
    grids = [WRONG, RIGHT]
    together = GridJudge(verifier, 2).scores(TASK, 0, grids, NEVER)
    alone = []
    for view in views(2):
        prompt = CODEC.prompt(view.apply(TASK.query(0)), 0, 512, 10).ids
        values = verifier.values(prompt, [CODEC.encode_answer(view.apply_grid(one)) for one in grids], NEVER)
        assert values is not None
        alone.append([value[-1] for value in values])
    for place, one in enumerate(grids):
        assert together[grid_key(one)] == pytest.approx(np.mean([scores[place] for scores in alone]), abs=1e-5)
    assert GridJudge(verifier).scores(TASK, 0, grids, Deadline(0.0, lambda: 1.0)) == {}


def test_the_rule_ranks_by_score_then_votes(verifier: Verifier) -> None:
    scores = GridJudge(verifier, 4).scores(TASK, 0, [WRONG, RIGHT], NEVER)
    assert [text_of(one) for one in by_scores(TALLY, scores)] == ["65", "56/12"]
    assert [text_of(one) for one in by_scores(TALLY, {})] == ["56/12", "65"]
    assert [text_of(one) for one in by_scores(TALLY, {grid_key(RIGHT): -1.0})] == ["65", "56/12"]
    assert [text_of(one) for one in by_scores(TALLY, dict.fromkeys(TALLY.grids, 0.5))] == ["56/12", "65"]


def test_the_rule_ranks_grids_that_programs_alone_gave(verifier: Verifier) -> None:
    def found(cells: np.ndarray, exact: bool) -> Candidate:
        return Candidate.of_program(cells, Program("p", 1.0, exact, 0.5))

    mirrored = grid([6], [5])
    tally = Tally.of([candidate(WRONG), found(mirrored, False), found(RIGHT, True), found(WRONG, True)])
    assert [text_of(one) for one in by_scores(tally, {})] == ["56/12", "65", "6/5"]
    scores = GridJudge(verifier, 4).scores(TASK, 0, [WRONG, RIGHT, mirrored], NEVER)
    assert set(scores) == {grid_key(one) for one in (WRONG, RIGHT, mirrored)}
    assert [grid_key(one) for one in by_scores(tally, scores)] == sorted(scores, key=lambda key: -scores[key])
