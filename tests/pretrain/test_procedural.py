"""Procedural families: pure functions of their seeds, sound pairs, rules that are held out, and their way into batches."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.arc.grid import COLOURS, MAX_SIDE, Grid
from solver.arc.task import Pair, Task
from solver.arc.view import View
from solver.codec import grid_codec
from solver.pretrain.command import MIXTURE, VALIDATION_BATCHES, validation_batches
from solver.pretrain.guard import Guard, held_out
from solver.pretrain.procedural import Family, Procedural, family
from solver.pretrain.procedural.criteria import MEASURES, One
from solver.pretrain.procedural.families import MAX_PAIR_TOKENS, PROBE, draft, flaw
from solver.pretrain.procedural.programs import Step, rule_of, run
from solver.pretrain.procedural.registry import PRIMITIVES
from solver.pretrain.procedural.scenes import SCENES
from solver.pretrain.procedural.values import Unfit
from solver.pretrain.sampler import Sampler, SamplerSettings
from solver.pretrain.store import pack

NO_GUARD = Guard.against([])
seeds = st.integers(0, 2**63 - 1)


def step(name: str, *arguments: object) -> Step:
    return Step(PRIMITIVES[name], arguments)


def pair_of(grid: Grid, *program: Step) -> Pair:
    return Pair(grid, np.ascontiguousarray(run(program, grid)))


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_families_give_sound_pairs(seed: int) -> None:
    found = family(seed)
    pairs = found.pairs(np.random.default_rng(1), PROBE + 3)
    assert len(pairs) == PROBE + 3
    for pair in pairs:
        assert pair.output is not None
        for grid in (pair.input, pair.output):
            assert grid.dtype == np.uint8
            assert grid.flags.c_contiguous
            assert 1 <= min(grid.shape) <= max(grid.shape) <= MAX_SIDE
            assert 0 < grid.max() < COLOURS
        assert sum(g.shape[0] * (g.shape[1] + 1) for g in (pair.input, pair.output)) <= MAX_PAIR_TOKENS
        assert np.array_equal(run(found.program, pair.input), pair.output)  # the output is a function of the input
    assert len(set(pairs)) > 1


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_families_are_functions_of_their_seed(seed: int) -> None:
    first, again = family(seed), family(seed)
    assert (first.scene.name, first.rule) == (again.scene.name, again.rule)
    assert first.probe == again.probe
    assert first.pair(np.random.default_rng(3)) == again.pair(np.random.default_rng(3))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_no_step_of_a_family_is_idle(seed: int) -> None:
    found = family(seed)
    assert flaw(found.program, found.probe) is None
    idle = (*found.program, step("replace_colour", 9, 9))  # does nothing whatever comes
    assert flaw(idle, found.probe) == "idle step"


def test_flawed_families_are_named() -> None:
    rng = np.random.default_rng(0)
    grids = [rng.integers(0, 3, (4, 4)).astype(np.uint8) for _ in range(PROBE)]
    flip = step("flip", "rows")
    assert flaw((flip,), [pair_of(g, flip) for g in grids]) is None
    assert flaw((flip, flip), [pair_of(g, flip, flip) for g in grids]) == "changes nothing"
    assert flaw((flip,), [pair_of(grids[0], flip)] * PROBE) == "few inputs"
    same = (step("paint_ground", 1), step("paint_all", 1))
    assert flaw(same, [pair_of(g, *same) for g in grids]) == "few outputs"


def test_seeds_lead_to_many_rules_scenes_and_primitives() -> None:
    families = [family(seed) for seed in range(250)]
    assert len({f.rule for f in families}) > 100
    assert len({f.scene.name.split()[0] for f in families}) > len(SCENES) / 2
    used = {s.primitive.name for f in families for s in f.program}
    assert len(used) > len(PRIMITIVES) / 2
    assert max(Counter(f.rule for f in families).values()) < 30
    assert any(len(f.program) > 3 for f in families)


def test_drafts_that_fail_say_why() -> None:
    reasons = {found for seed in range(200) if not isinstance(found := draft(seed, 0), Family)}
    assert {"seldom fits", "idle step"} <= reasons


def test_rules_leave_out_what_views_change() -> None:
    assert step("gravity", "down").name == step("gravity", "left").name == "gravity"
    assert step("shift", "down", 2).name == "shift(2)"
    assert step("replace_colour", 1, 2).name == step("replace_colour", 3, 4).name
    assert step("tile", 1, 3).name == step("tile", 3, 1).name != step("tile", 3, 3).name
    lowest, rightmost = (step("crop_one", One(MEASURES[name], "most")) for name in ("lowness", "rightness"))
    assert lowest.name == rightmost.name == "crop_one(most lowness)"
    assert lowest.name != step("crop_one", One(MEASURES["lowness"], "least")).name
    # the sampler turns outputs alone, too
    assert rule_of((step("peel"), step("rotate", "left"), step("transpose"))) == rule_of((step("peel"),)) == "peel"
    assert (
        rule_of((step("rotate", "left"), step("add_frame", 3)))
        == rule_of((step("rotate", "right"), step("add_frame", 3)))
        != "add_frame"
    )


def test_held_out_rules_are_never_trained_on() -> None:
    rng = np.random.default_rng(0)
    drawn: dict[bool, list[str]] = {}
    for kept_out in (False, True):
        source = Procedural(NO_GUARD, kept_out)
        drawn[kept_out] = [source.family(rng).rule for _ in range(15)]
    assert not set(drawn[False]) & set(drawn[True])
    assert all(held_out(rule) for rule in drawn[True])


def test_pairs_of_guarded_tasks_do_not_pass() -> None:
    pairs = Procedural(NO_GUARD).pairs(np.random.default_rng(5), 4)
    task = View("rot90", (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)).apply(Task("t", tuple(pairs[1:3]), ()))
    passed = Procedural(Guard.against([task])).pairs(np.random.default_rng(5), 4)
    assert passed == [pairs[0], pairs[3]]


def test_blocks_with_endless_sources_are_functions_of_seed_and_number() -> None:
    def sampler(seed: int) -> Sampler:
        endless = {"procedural": Procedural(NO_GUARD)}
        made = Sampler(pack([]), {}, grid_codec(), SamplerSettings(batch_tokens=1024, block_batches=2), seed, endless)
        return pickle.loads(pickle.dumps(made))  # as batches made by other processes need it

    for a, b in zip(sampler(0).block(3), sampler(0).block(3), strict=True):
        assert np.array_equal(a.ids, b.ids)
    assert not np.array_equal(sampler(0).block(3)[0].ids, sampler(1).block(3)[0].ids)


def test_sources_are_drawn_by_the_mixture() -> None:
    class Endless:
        def pairs(self, rng: np.random.Generator, count: int) -> list[Pair]:
            return [Pair(np.ones((1, 1), np.uint8), np.ones((1, 1), np.uint8))] * count

    large = np.ones((4, 4), np.uint8)
    store = pack([("f", "stored", [Pair(large, large)] * 6)])
    mixture = {"stored": 0.7, "procedural": MIXTURE["procedural"]}
    sampler = Sampler(store, mixture, grid_codec(), SamplerSettings(), 0, {"procedural": Endless()})
    rng = np.random.default_rng(0)
    share = np.mean([len(sampler.draw(rng).sequence) < 4 * 8 for _ in range(250)])
    assert 0.2 < share < 0.4
    for batch in sampler.block(0):
        small, large = batch.by_source.get("procedural", 0), batch.by_source.get("stored", 0)
        assert small + large == batch.tokens == np.count_nonzero(batch.ids != grid_codec().pad)
    assert sum(MIXTURE.values()) == pytest.approx(1)


def test_validation_falls_back_on_held_out_procedural_families() -> None:
    settings = SamplerSettings(batch_tokens=256, block_batches=2, max_tokens=256)
    batches = validation_batches(pack([]), NO_GUARD, settings, grid_codec())
    assert len(batches) == VALIDATION_BATCHES
    assert all(batch.tokens > 0 for batch in batches)


def test_a_pair_that_cannot_be_found_is_refused() -> None:
    never = Family(family(0).scene, (step("paint_all", 1), step("keep_by_cells", "rarest")))  # one colour has no rarest
    with pytest.raises(Unfit):
        never.pair(np.random.default_rng(0))
