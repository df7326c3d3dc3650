"""Which generators are good for training: deterministic, varied, in bounds, not evaluation tasks, and new."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from solver.arc.grid import grid_key
from solver.arc.task import Pair
from solver.pretrain.guard import Guard, canonical_key
from solver.pretrain.lm_generators.sandbox.process import Sandbox
from solver.pretrain.lm_generators.verdicts import Refused

TRIES = 2  # draws for each of the wanted pairs: a generator may fail at some
# shares of the pairs of a generator
MIN_INPUTS = 0.9  # different inputs
MAX_UNCHANGED = 0.1  # outputs that are the input
MAX_SAME_OUTPUT = 0.9  # pairs that have the most frequent output
MAX_KNOWN = 0.5  # pairs that an example or an earlier generator gives, too


def judge(sandbox: Sandbox, code: str, count: int, guard: Guard) -> tuple[Pair, ...]:
    """The pairs of a generator, up to `count`, with different inputs. Raises Refused if it is not good for training.

    Whether other generators give the same pairs is not asked; see `Known`. Raises InputError as `Sandbox.draw`.
    """
    drawn = sandbox.draw(code, range(TRIES * count), count)
    _check_deterministic(sandbox, code, drawn)
    pairs = list(drawn.values())
    _check_varied(pairs)
    _check_solvable(pairs)
    if any(guard.bars_pair(pair) for pair in pairs):
        raise Refused("evaluation task")
    changed = (pair for pair in pairs if _key(pair)[0] != _key(pair)[1])
    return tuple({_key(pair)[0]: pair for pair in changed}.values())


def _check_deterministic(sandbox: Sandbox, code: str, drawn: dict[int, Pair]) -> None:
    """Draw the same pairs again, in another process, where hashes and addresses differ, and in the reverse order."""
    try:
        again = sandbox.draw(code, list(reversed(drawn)), len(drawn))
    except Refused as refused:
        raise Refused("random", refused.told) from None
    if any(_key(again[seed]) != _key(pair) for seed, pair in drawn.items()):
        raise Refused("random")


def _check_varied(pairs: Sequence[Pair]) -> None:
    keys = [_key(pair) for pair in pairs]
    inputs = {shown for shown, _ in keys}
    if len(inputs) < MIN_INPUTS * len(pairs):
        raise Refused("few inputs", f"{len(inputs)} of {len(pairs)}")
    unchanged = sum(shown == output for shown, output in keys)
    if unchanged > MAX_UNCHANGED * len(pairs):
        raise Refused("unchanged", f"{unchanged} of {len(pairs)}")
    ((_, most),) = Counter(output for _, output in keys).most_common(1)
    if most > MAX_SAME_OUTPUT * len(pairs):
        raise Refused("few outputs", f"one of them {most} times of {len(pairs)}")


def _check_solvable(pairs: Sequence[Pair]) -> None:
    """No solver finds a rule that gives two outputs for one input."""
    outputs: dict[bytes, bytes] = {}
    for shown, output in map(_key, pairs):
        if outputs.setdefault(shown, output) != output:
            raise Refused("contradiction")


class Known:
    """The pairs of the generators that were kept, in any orientation and colours."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def add(self, pairs: Sequence[Pair]) -> bool:
        """Keep the pairs of a generator. False, without keeping them: too many of them are known."""
        digests = {hashlib.blake2b(canonical_key(pair), digest_size=16).digest() for pair in pairs}
        if len(digests & self._digests) > MAX_KNOWN * len(digests):
            return False
        self._digests |= digests
        return True


def _key(pair: Pair) -> tuple[bytes, bytes]:
    assert pair.output is not None
    return grid_key(pair.input), grid_key(pair.output)
