"""The calculator that follows a completion, with a tokenizer made here, one that splits otherwise, and hostile completions."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_models import byte_level_tokenizer, prefixing_tokenizer

from solver.errors import InputError
from solver.math.annotations import Calculator, chosen, is_well_formed
from solver.math.problems import MathProblem
from solver.math.tokens import MathTokenizer, new_tokenizer
from solver.math.word_problems import Difficulty, make_problems


@cache
def problems() -> tuple[MathProblem, ...]:
    return tuple(itertools.islice(make_problems(0, Difficulty(), "p"), 200))


@cache
def tokenizers() -> dict[str, MathTokenizer]:
    own = new_tokenizer(f"{problem.question}\n{problem.completion()}" for problem in problems())
    return {
        "own": MathTokenizer(own, "own"),
        "merged digits": MathTokenizer(byte_level_tokenizer(split_digits=False), "merged digits"),
        "split digits": MathTokenizer(byte_level_tokenizer(), "split digits"),
        "spaces before texts": MathTokenizer(prefixing_tokenizer(), "spaces before texts"),
    }


def complete(tokenizer: MathTokenizer, texts: list[str]) -> tuple[str, list[int]]:
    """What comes out if a model wants to write `texts`, one after each value that the calculator writes."""
    calculator, ids = Calculator(tokenizer), []
    for text in texts:
        for token in tokenizer.completion(text)[:-1].tolist():
            ids.append(token)
            forced = calculator.follow([token])
            while forced is not None:
                ids.append(forced)
                if forced == tokenizer.end:
                    return tokenizer.text(ids), ids
                forced = calculator.follow([forced])
    return tokenizer.text(ids), ids


@pytest.mark.parametrize("name", tokenizers())
def test_values_are_written_after_equals_signs(name: str) -> None:
    tokenizer = tokenizers()[name]
    text, ids = complete(tokenizer, ["So <<48/2=", "24 clips, and <<1-2.5=", "-1.5.\n#### 72"])
    assert text.replace(" ", "") == "So<<48/2=24>>24clips,and<<1-2.5=-1.5>>-1.5.\n####72"
    assert is_well_formed(text)
    free = chosen(ids, tokenizer)
    written = [tokenizer.text([id_]) for id_, model in zip(ids, free, strict=True) if not model]
    assert "".join(written).replace(" ", "") == "24>>-1.5>>"


def test_an_expression_of_a_tokenizer_that_joins_signs_is_read_to_its_end() -> None:
    joined = MathTokenizer(new_tokenizer(["<<5-7=-2>>-2"] * 100), "joined")
    for text in ("<<5-7=", "<<5-7=-", "<<5-7=-2", "<<5-7=-2>", "<<5-7=-2>>"):
        assert complete(joined, [text, "-2."])[0].startswith("<<5-7=-2>>")
    point = MathTokenizer(new_tokenizer(["<<1/4=.25>>"] * 100), "point")
    written = [complete(point, [text, "."])[0] for text in ("<<1/4=.", "<<1/4=")]
    assert [text[:12] for text in written] == ["<<1/4=.25>>.", "<<1/4=0.25>>"]
    assert all(map(is_well_formed, written))  # what the calculator wrote is no reason to draw again
    assert not is_well_formed("<<1/4=.26>>")


@pytest.mark.parametrize("text", ["<<9**9=", "<<x=", "<<1/0=", "<<=", "<<5+5>>10", "<<5+5 apples and many more", "<<5+<<5="])
def test_a_sample_with_an_ill_formed_annotation_is_ended(text: str) -> None:
    tokenizer = tokenizers()["own"]
    if "<<5+<<5=" in text:  # the inner annotation gets its value, and the outer one never closes
        assert not is_well_formed(complete(tokenizer, [text, " so"])[0])
        return
    written, ids = complete(tokenizer, [text + " and more words" * 20])
    assert ids[-1] == tokenizer.end
    assert not is_well_formed(written)


def test_whole_completions_are_followed_like_single_tokens() -> None:
    tokenizer = tokenizers()["own"]
    for problem in problems()[:20]:
        ids = tokenizer.completion(problem.completion()).tolist()
        assert is_well_formed(tokenizer.text(ids))
        for cut in range(len(ids)):
            together, single = Calculator(tokenizer), Calculator(tokenizer)
            forced = [single.follow([id_]) for id_ in ids[:cut]]
            assert together.follow(ids[:cut]) == ([None, *forced])[-1]
            assert ([None, *forced])[-1] in (None, ids[cut])  # reference solutions have the values that the calculator writes


@given(st.text("<>=5+-*/(). x", max_size=60))
def test_whatever_is_written_ends_well_formed_or_is_refused(text: str) -> None:
    tokenizer = tokenizers()["own"]
    written, ids = complete(tokenizer, [text])
    if ids and ids[-1] == tokenizer.end:
        assert not is_well_formed(written)


def test_texts_come_back_and_a_problem_is_one_sequence() -> None:
    tokenizer = tokenizers()["own"]
    for problem in problems()[:50]:
        assert tokenizer.text(tokenizer.completion(problem.completion())) == problem.completion()
        sequence = tokenizer.sequence(problem)
        length = len(tokenizer.prompt(problem.question))
        assert sequence.weights[:length].sum() == 0
        assert sequence.weights[length:].all()
        assert tokenizer.text(sequence.ids) == f"{problem.question}\n{problem.completion()}"
        assert tokenizer.sequence(problem, question_weight=0.5).weights[1] == 0.5
        answer_only = tokenizer.sequence(problem, steps=False)
        assert tokenizer.text(answer_only.ids[length:]) == f"#### {problem.answer}"


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    plain = byte_level_tokenizer()
    plain.eos_token = None
    with pytest.raises(InputError, match="plain: the tokenizer has no end-of-sequence token"):
        MathTokenizer(plain, "plain")
