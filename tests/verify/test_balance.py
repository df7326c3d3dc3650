from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.errors import InputError
from solver.verify.balance import balanced
from solver.verify.samples import Problem, Sample, SampleSet

LABELS = st.lists(st.lists(st.booleans(), max_size=9), max_size=5)  # of the samples of every problem


def labelled(labels: list[list[bool]]) -> SampleSet:
    problems = tuple(Problem(str(number), (1, 2), "7") for number in range(len(labels)))
    samples = tuple(
        Sample(problem.id, f"{n}", (n,), -1.0, "7" if right else None, right)
        for problem, mine in zip(problems, labels, strict=True)
        for n, right in enumerate(mine)
    )
    return SampleSet("generator", problems, samples)


@given(LABELS, st.integers(0, 3))
def test_every_problem_has_as_many_right_as_wrong_samples(labels: list[list[bool]], seed: int) -> None:
    given_ = labelled(labels)
    if all(len(set(mine)) < 2 for mine in labels):
        with pytest.raises(InputError, match="no problem has both right and wrong samples"):
            balanced(given_, seed)
        return
    found = balanced(given_, seed)
    assert found == balanced(given_, seed)
    assert [problem.id for problem in found.problems] == [str(n) for n, mine in enumerate(labels) if len(set(mine)) == 2]
    before, after = given_.by_problem(), found.by_problem()
    for id_, mine in after.items():
        assert len(mine) == len(before[id_])
        assert set(mine) <= set(before[id_])
        right = sum(one.correct for one in mine)
        assert 0 <= 2 * right - len(mine) <= 1


@given(LABELS.filter(lambda labels: any(len(set(mine)) == 2 for mine in labels)))
def test_samples_of_one_label_are_repeated_equally_often(labels: list[list[bool]]) -> None:
    for mine in balanced(labelled(labels), 0).by_problem().values():
        for label in (True, False):
            counts = [mine.count(one) for one in set(mine) if one.correct is label]
            assert max(counts) - min(counts) <= 1
