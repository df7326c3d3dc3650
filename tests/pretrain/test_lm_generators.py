"""LM-written generators: examples, prompts, filters, and the command with canned completions and with a random model."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from text_models import (
    architects_tokenizer,
    byte_level_tokenizer,
    nvarc_tokenizer,
    prefixing_tokenizer,
    write_folder,
)
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from solver.arc.task import Pair, Task
from solver.cli import app
from solver.codec import cut_tokenizer, text_codec
from solver.commands import lm_corpus
from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.infer.text_model import load_text_model
from solver.model.text_tokenizer import TextTokenizer
from solver.pretrain.command import MIXTURE, evaluation_guard, load_store, with_usual_shares
from solver.pretrain.guard import Guard
from solver.pretrain.lm_generators import corpus, prompts, writing
from solver.pretrain.lm_generators.corpus import LmCorpusOptions, make_lm_corpus, record_file, summary_file
from solver.pretrain.lm_generators.examples import Example, load_examples
from solver.pretrain.lm_generators.filters import Known, judge
from solver.pretrain.lm_generators.sandbox.process import Sandbox, open_sandbox
from solver.pretrain.lm_generators.verdicts import KEPT, REASONS, STAGES, Funnel, Refused
from solver.pretrain.lm_generators.writing import Writer, WritingOptions, program_tokenizer
from solver.types import Completion, Deadline, Result, SampleRequest

NOBODY = Guard.against([])


def shifted(by: int) -> str:
    """A good generator: the output adds `by` to every colour."""
    return f"""def generate(rng):
    shown = [[rng.randrange(10) for _ in range(rng.randint(3, 3))] for _ in range(3)]
    return shown, [[(cell + {by}) % 10 for cell in row] for row in shown]"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    try:
        manager = open_sandbox("no-namespaces")
        sandbox = manager.__enter__()
    except InputError as error:
        pytest.skip(str(error))
    yield sandbox
    manager.__exit__(None, None, None)


@pytest.fixture(scope="module")
def guard() -> Guard:
    """The guard that the command makes, once for all tests."""
    return evaluation_guard()


@pytest.fixture
def shared_guard(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_corpus, "evaluation_guard", lambda: guard)


# --- examples


def test_the_examples_pass_the_filters_and_differ(sandbox: Sandbox, guard: Guard) -> None:
    examples, known = load_examples(), Known()
    assert len(examples) >= 12
    assert len({example.description for example in examples}) == len(examples)
    for example in examples:
        assert "def generate(rng):" in example.code
        assert '"""' not in example.code
        assert known.add(judge(sandbox, example.code, 12, guard)), example.name


# --- prompts

EXAMPLES = (Example("a", "Rule a.", "def generate(rng):\n    return 1"), Example("b", "Rule b.", "x = 2"))


def test_prompts_end_where_the_completion_begins() -> None:
    code, joint, two = prompts.code_prompt(EXAMPLES), prompts.joint_prompt(EXAMPLES), prompts.described_prompt(EXAMPLES, "New.")
    assert code.endswith("```python\nx = 2\n```\n\n### Puzzle 3\n```python\n")
    assert "Rule" not in code
    assert joint.endswith("### Puzzle 2\nRule: Rule b.\n```python\nx = 2\n```\n\n### Puzzle 3\nRule:")
    assert two == f"{joint} New.\n```python\n"
    described = prompts.description_prompt(EXAMPLES)
    assert described.endswith("### Puzzle 2\nRule: Rule b.\n\n### Puzzle 3\nRule:")
    assert "python" not in described


def test_completions_are_read() -> None:
    assert prompts.code_in("a = 1\n\nb = 2\n```\n### Puzzle 4", False) == "a = 1\n\nb = 2"
    assert prompts.code_in("a = 1", True) == "a = 1"
    assert prompts.description_and_code_in(" All fall.\n```python\na = 1\n```", False) == ("All fall.", "a = 1")
    assert prompts.description_in("\n All fall.  \nMore.") == "All fall."
    for bad in ("a = 1\nb", "```", "", "  \n```"):
        with pytest.raises(Refused, match="no code"):
            prompts.code_in(bad, False)
    for bad in ("", "\n\n", "```python", "### Puzzle 9", "x" * 2000):
        with pytest.raises(Refused, match="no description"):
            prompts.description_in(bad)
    with pytest.raises(Refused, match="no block of code"):
        prompts.description_and_code_in("All fall.", True)


WORDS = ["```", "python", "\n", "#", " ", "a = 1", "Rule:"]
PARTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=12).map("".join)


@given(PARTS, st.booleans())
def test_what_ended_a_completion_is_all_that_is_read(text: str, finished: bool) -> None:
    def read(function: Any, text: str) -> Any:
        try:
            return function(text, finished)
        except Refused as refused:
            return refused.args

    for ended, function in (
        (prompts.code_ended, prompts.code_in),
        (prompts.joint_ended, prompts.description_and_code_in),
        (prompts.description_ended, lambda text, _: prompts.description_in(text)),
    ):
        if ended(text):
            assert read(function, text + "more\n```\nText.") == read(function, text)


@pytest.mark.parametrize("name", ["bytes", "SentencePiece", "grid vocabulary", "NVARC", "ARChitects"])
def test_models_whose_vocabulary_is_that_of_grids_are_refused(name: str, tmp_path: Path) -> None:
    nvarc_tokenizer(tmp_path / "nvarc")
    architects_tokenizer(tmp_path / "architects")
    whole = byte_level_tokenizer()
    tokenizer = {
        "bytes": whole,
        "SentencePiece": prefixing_tokenizer(),
        "grid vocabulary": cut_tokenizer(whole, text_codec(whole).vocabulary),
        "NVARC": PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "nvarc" / "tokenizer.json"), eos_token="<|im_end|>"),
        "ARChitects": PreTrainedTokenizerFast.from_pretrained(tmp_path / "architects"),
    }[name]
    if name in ("bytes", "SentencePiece"):
        assert program_tokenizer(tokenizer, name).end == tokenizer.eos_token_id
        return
    with pytest.raises(InputError, match=f"^{name}: its vocabulary cannot write programs; give a model that writes text$"):
        program_tokenizer(tokenizer, name)


def test_ways_are_named() -> None:
    assert prompts.parse_ways("two-stage, code") == ("code", "two-stage")
    with pytest.raises(InputError, match="no way 'jont' to ask; there are: code, joint, two-stage"):
        prompts.parse_ways("code,jont")


# --- filters

# what stands before the function, what it gives as the output, and what becomes of it
FILTERED = {
    "words of a set": ("words = {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}\n", "[[ord(word) % 10 for word in words]]", "random"),
    "addresses": ("", "[[int(digit) for digit in str(id(rng))]]", "random"),
    "a count of calls": ("calls = []\n", "(calls.append(1), [[len(calls) % 10]])[1]", "random"),
    "unchanged": ("", "shown", "unchanged"),
    "constant": ("", "[[3]]", "few outputs"),
    "fine": ("", "[[sum(map(sum, shown)) % 10]]", KEPT),
    "module random": ("import random\n", "[[random.randrange(10), shown[0][0]]]", KEPT),
}


def verdict(sandbox: Sandbox, code: str, guard: Guard = NOBODY) -> str:
    try:
        return KEPT if judge(sandbox, code, 12, guard) else "no pairs"
    except Refused as refused:
        return refused.reason


@pytest.mark.parametrize("name", FILTERED)
def test_filters(name: str, sandbox: Sandbox) -> None:
    before, output, expected = FILTERED[name]
    shown = "shown = [[rng.randrange(10) for _ in range(4)] for _ in range(4)]"
    assert verdict(sandbox, f"{before}def generate(rng):\n    {shown}\n    return shown, {output}") == expected


def test_inputs_have_to_differ_and_determine_their_outputs(sandbox: Sandbox) -> None:
    few = "def generate(rng):\n    x = rng.randrange(2)\n    return [[x]], [[x + 1]]"
    assert verdict(sandbox, few) == "few inputs"
    twice = """def generate(rng):
    x = rng.random()
    return [[int(x * 10 ** n) % 10 for n in range(1, 9)]] if x > 0.05 else [[0]], [[rng.randrange(10)] * 9]"""
    with pytest.raises(Refused, match="contradiction"):
        judge(sandbox, twice, 60, NOBODY)


def test_pairs_have_different_inputs_and_are_changed(sandbox: Sandbox) -> None:
    code = """def generate(rng):
    shown = [[rng.randrange(1, 10) for _ in range(3)]]
    return shown, shown if sum(shown[0]) < 9 else shown + shown"""
    pairs = judge(sandbox, code, 40, NOBODY)
    assert len({pair.input.tobytes() for pair in pairs}) == len(pairs) < 40
    assert all(pair.output is not None and pair.output.shape == (2, 3) for pair in pairs)


def test_a_generator_of_an_evaluation_task_is_refused(sandbox: Sandbox) -> None:
    pairs = judge(sandbox, shifted(1), 12, NOBODY)
    turned = Pair(pairs[3].input.T, pairs[3].output.T)  # type: ignore[union-attr]
    guard = Guard.against([Task("secret", (turned,), ())])
    assert verdict(sandbox, shifted(1), guard) == "evaluation task"
    assert verdict(sandbox, shifted(2), guard) == KEPT


def test_equal_pairs_in_other_colours_are_duplicates(sandbox: Sandbox) -> None:
    known = Known()
    assert known.add(judge(sandbox, shifted(1), 12, NOBODY))
    recoloured = """def generate(rng):
    shown = [[9 - rng.randrange(10) for _ in range(rng.randint(3, 3))] for _ in range(3)]
    return shown, [[9 - (9 - cell + 1) % 10 for cell in row] for row in shown]"""
    assert not known.add(judge(sandbox, recoloured, 12, NOBODY))
    assert known.add(judge(sandbox, shifted(2), 12, NOBODY))


def test_the_funnel_counts_every_verdict_once() -> None:
    funnel = Funnel.of([*REASONS, KEPT, KEPT, "syntax"])
    assert funnel.verdicts.total() == len(REASONS) + 3
    assert funnel.passed()[-1] == (STAGES[-1][0], 2)
    counts = [count for _, count in funnel.passed()]
    assert counts == sorted(counts, reverse=True)
    assert funnel.line().startswith(f"{len(REASONS) + 3} completions, {len(REASONS) + 2} hold a program, ")
    assert "| ran | " in funnel.table()
    assert "2 syntax (not a Python program)" in funnel.table()


# --- the command, with canned completions

CANNED = {
    "code": [shifted(1) + "\n```\n### Puzzle 6", load_examples()[0].code + "\n```", "import os\n```", "x = 1\n``"],
    "joint": [
        f" Add three.\n```python\n{shifted(3)}\n```",
        f" Add one.\n```python\n{shifted(1)}\n```",
        " No code.",
        " Bad.\n```python\n(\n```",
    ],
    "description": [" Add four.\n\n### Puzzle", " Add five.", "\n", "```"],
    "four": [shifted(4) + "\n```"],
    "five": ["import sys\n```"],
}


class CannedEngine:
    """Writes CANNED completions, token by token, as an engine with forcers does."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer
        self.asked: list[str] = []

    def sample(self, requests: Sequence[SampleRequest], deadline: Deadline) -> Iterator[Result]:
        for request in requests:
            prompt = self.tokenizer.text(request.prompt)
            if prompt.endswith("Rule:"):
                kind = "joint" if "```" in prompt else "description"
            else:
                last = prompt.splitlines()[-2]
                kind = last.split()[-1].strip(".") if last.startswith("Rule:") else "code"
            self.asked.append(kind)
            yield Result(request.id, "complete", tuple(self.written(request, text) for text in CANNED[kind][: request.n]))

    def written(self, request: SampleRequest, text: str) -> Completion:
        assert request.forcer is not None
        forcer, ids = request.forcer(), []
        for id_ in self.tokenizer.encode(text):
            forced = forcer.follow(ids[-1:])
            ids.append(id_ if forced is None else forced)
            if forced is not None:
                break
        return Completion(np.array(ids, np.int32), np.zeros(len(ids), np.float32), ids[-1] == self.tokenizer.end)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "model"
    write_folder(folder, "llama", True)
    return folder


@pytest.fixture
def few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer examples to run."""
    monkeypatch.setattr(corpus, "load_examples", lambda: load_examples()[:2])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> CannedEngine:
    engine = CannedEngine(TextTokenizer(byte_level_tokenizer(), "canned"))

    def load(folder: Path, settings: ModelSettings, read_tokenizer: Any) -> Any:
        tokenizer = read_tokenizer(byte_level_tokenizer(), str(folder))
        return SimpleNamespace(
            tokenizer=tokenizer, engine=lambda _: engine, base=SimpleNamespace(path=folder, device=torch.device("cpu"))
        )

    monkeypatch.setattr(writing, "load_text_model", load)
    monkeypatch.setattr(corpus, "CPU_PROMPTS", 2)
    return engine


def options(**changes: Any) -> LmCorpusOptions:
    short = WritingOptions(shots=2, **changes)
    return LmCorpusOptions(completions=11, pairs=6, writing=short, form="no-namespaces", processes=2)


@pytest.mark.usefixtures("sandbox", "few_examples")
def test_canned_completions_become_a_corpus(engine: CannedEngine, random_model: Path, tmp_path: Path) -> None:
    out, lines = tmp_path / "corpora" / "lm.json.xz", list[str]()
    funnel = make_lm_corpus(out, random_model, options(), lambda: NOBODY, lines.append)
    assert funnel.verdicts == {KEPT: 3, "duplicate": 2, "import": 2, "syntax": 1, "no code": 4}
    assert engine.asked == ["code", "joint", "description", "four", "five"]
    families = json.loads(lzma.decompress(out.read_bytes()))
    assert sorted(families) == ["lm-written-00000-0", "lm-written-00001-0", "lm-written-00002-0"]
    for name, by in zip(sorted(families), (1, 3, 4), strict=True):
        assert len(families[name]) == 6
        for pair in families[name]:
            assert pair["output"] == [[(cell + by) % 10 for cell in row] for row in pair["input"]]
    assert summary_file(out).read_text().startswith(funnel.line())
    assert any(line.startswith("so far 8 completions, 6 hold a program, 4 ran") for line in lines)
    record = [json.loads(line) for line in record_file(out).read_text().splitlines()]
    assert [line["prompt"] for line in record[1:]] == [0, 1, 2]
    first, second = record[3]["completions"][:2]
    assert (first["way"], first["description"], first["code"], first["verdict"]) == ("two-stage", "Add four.", shifted(4), KEPT)
    assert (second["verdict"], second["pairs"]) == ("import", [])
    assert len(first["shown"]) == 2

    store = load_store(out.parent, tmp_path / "cache", NOBODY, lines.append)
    assert "lm" in store.sources  # the record and the summary are no corpora
    assert not any("passed over" in line for line in lines)
    assert with_usual_shares(MIXTURE, store, lines.append)["lm"] == 0
    assert lines[-1] == "lm: a language model wrote its generators; none is drawn unless --mixture lm=SHARE says so"
    assert with_usual_shares({"lm": 0.5}, store, print)["lm"] == 0.5

    with pytest.raises(InputError, match=r"lm\.json\.xz: exists already"):
        make_lm_corpus(out, random_model, options(), lambda: NOBODY, print)


@pytest.mark.usefixtures("sandbox", "few_examples")
def test_a_stopped_call_goes_on(
    engine: CannedEngine, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CANNED, "five", CANNED["four"])
    out, lines = tmp_path / "lm.json", list[str]()
    make_lm_corpus(out, random_model, options(), lambda: NOBODY, lines.append)
    whole, record = out.read_bytes(), record_file(out).read_bytes()
    out.unlink()
    record_file(out).write_bytes(record[:-40])  # a kill in the midst of the last line
    engine.asked.clear()
    make_lm_corpus(out, random_model, options(), lambda: NOBODY, lines.append)
    assert engine.asked == ["description", "four", "five"]
    assert lines[-4].endswith("has 2 of 3 prompts")
    assert out.read_bytes() == whole
    assert record_file(out).read_bytes() == record
    out.unlink()
    with pytest.raises(InputError, match=r"ndjson: was written with other options \(temperature\)"):
        make_lm_corpus(out, random_model, options(temperature=0.5), lambda: NOBODY, print)
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "folder_identity", lambda _: "another")
        with pytest.raises(InputError, match="another model wrote these generators"):
            make_lm_corpus(out, random_model, options(), lambda: NOBODY, print)
    for damage, told in ((b"x" + record, "not valid JSON"), (b"{}\n", "not a record"), (record + b'{"prompt": 1}\n', "line 5: ")):
        record_file(out).write_bytes(damage)
        with pytest.raises(InputError, match=told):
            make_lm_corpus(out, random_model, options(), lambda: NOBODY, print)


# --- the command, with a random model


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["make-corpus", "lm", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.usefixtures("sandbox", "few_examples", "shared_guard")
def test_a_random_model_writes_no_generator_and_the_command_says_so(random_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "lm.json"
    few = ["--completions", 12, "--shots", 1, "--max-new-tokens", 12, "--device", "cpu", "--pairs", 3]
    code, output = invoke(out, "--model", random_model, *few, "--sandbox", "no-namespaces")
    assert code == 0, output
    assert f"{out}: 12 completions, " in output
    assert output.strip().endswith("0 are new")
    assert f"{out}: not written, because no generator passed the filters" in output
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lm.completions.ndjson", "lm.summary.md"]


def test_the_same_prompt_gives_the_same_completions(random_model: Path) -> None:
    def written(numbers: list[int], seed: int) -> list[Any]:
        options = WritingOptions(("code",), shots=1, max_new_tokens=8, seed=seed)
        return Writer(random_model, ModelSettings(device="cpu"), InferSettings(), options).write(numbers)

    together, alone = written([4, 5], 0), written([5], 0)
    assert together[1] == alone[0]
    assert together[0][0].shown != together[1][0].shown
    model = load_text_model(random_model, ModelSettings(device="cpu"), TextTokenizer)
    assert model.tokenizer.text(model.tokenizer.encode("def f():\n    pass")) == "def f():\n    pass"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["OUT"], "lm needs the model that writes: --model DIR"),
        (["OUT", "--model", "nowhere"], "nowhere: no such model folder"),
        (["OUT", "--model", "embedded-base"], "its vocabulary cannot write programs; give a model that writes text"),
        (["OUT", "--model", "MODEL", "--prompts", "poem"], "--prompts: no way 'poem' to ask; there are: code, joint, two-stage"),
        (["OUT", "--model", "MODEL", "--shots", "17"], "--shots has fewer examples shown"),
        (["there.json", "--model", "MODEL"], "there.json: exists already; give another name, or remove it"),
        (["lm.csv", "--model", "MODEL"], "lm.csv: a corpus is a file, .json or .json.xz"),
        (["there.json/lm.json", "--model", "MODEL"], "lm.completions.ndjson: cannot be written: "),
    ],
)
@pytest.mark.usefixtures("sandbox", "shared_guard")
def test_bad_input_is_one_line(
    arguments: list[str], told: str, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.json").write_text("{}")
    names = {"OUT": "lm.json", "MODEL": str(random_model)}
    code, output = invoke(*(names.get(one, one) for one in arguments), "--device", "cpu", "--sandbox", "no-namespaces")
    assert code == 2
    assert told in output.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]
