"""Learnt tables: the output's colour at a cell as a function of the colours of one to three pieces at that cell.

One piece gives a learnt colour map, two give the logical operations on two halves of a grid, recolouring of objects by what a
feature says about them, and so on. A beam search adds pieces that make the output's colour more certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import COLOURS
from solver.programs.batch import Bools, Ints
from solver.programs.candidate import Candidate
from solver.programs.pieces import Pieces, pair_of_cell
from solver.types import Deadline

BEAM = 16
MAX_DEPTH = 3
WORK = 400_000  # cells of pieces that one step looks at
BEAM_WORK = 12_000_000  # cells of pieces that the beam looks at to add a piece; MIN_PIECES in any case
MIN_PIECES = 150
ENTRY_COST = 0.15  # of every entry of a table that does not keep the colour of its first piece
UNSUPPORTED_COST = 0.3  # of every entry that only one demonstration shows
UNSEEN_COST = 3.0  # of a table that must answer for a combination which no demonstration shows

GUESS_COST = 0.6  # of every such combination whose answer similar ones suggest


@dataclass(frozen=True, eq=False)
class _State:
    pieces: tuple[int, ...]
    codes: Ints  # (cells of all pairs,) the colours of the pieces as one number
    mistakes: int


def table_candidates(pieces: Pieces, demonstrations: int, deadline: Deadline) -> Iterator[Candidate]:
    """Candidates whose table is exact on all demonstrations."""
    if not len(pieces):
        return
    target = pieces.target.astype(np.int64)
    pair = pair_of_cell(pieces.sizes, demonstrations)
    beam = [_State((), np.zeros(pieces.cells.shape[1], np.int64), len(target))]
    for _ in range(MAX_DEPTH):
        offers: list[tuple[float, int, int]] = []  # rank, number of the state, piece
        for number, state in enumerate(beam):
            mistakes = np.concatenate(list(_mistakes(pieces, state, target, deadline)) or [np.zeros(0, np.int64)])
            worth = np.flatnonzero(mistakes < state.mistakes)
            rank = mistakes[worth] + 0.25 * pieces.cost[worth] + 0.25 * sum(pieces.cost[list(state.pieces)])
            for place in np.argsort(rank, kind="stable")[: 2 * BEAM]:
                offers.append((float(rank[place]), number, int(worth[place])))
        offers.sort()
        states, seen = [], set()
        for _, number, piece in offers:
            state = beam[number]
            members = tuple(sorted((*state.pieces, piece)))
            if members in seen:
                continue
            seen.add(members)
            codes = state.codes * COLOURS + pieces.cells[piece]
            counts = _counts(codes[: len(target)], target, len(state.pieces) + 1)
            states.append(_State((*state.pieces, piece), codes, int(len(target) - counts.max(1).sum())))
            if len(states) >= BEAM:
                break
        for state in states:
            if state.mistakes == 0:
                yield _candidate(pieces, state, target, pair, demonstrations)
        beam = [state for state in states if state.mistakes]
        if not beam or deadline.expired():
            return


def _counts(codes: Ints, target: Ints, depth: int) -> Ints:
    """How often each code comes with each colour of the output, (10 ** depth, 10)."""
    return np.bincount(codes * COLOURS + target, minlength=COLOURS ** (depth + 1)).reshape(-1, COLOURS)


def _mistakes(pieces: Pieces, state: _State, target: Ints, deadline: Deadline) -> Iterator[Ints]:
    """For each piece: demonstration cells that the best table of the state's pieces and it gets wrong."""
    known = pieces.known[: max(BEAM_WORK // (BEAM * len(target)), MIN_PIECES) if state.pieces else None]
    different, codes = np.unique(state.codes[: len(target)], return_inverse=True)
    width = len(different) * COLOURS  # codes with a further piece
    base = target * width + codes * COLOURS
    bins = width * COLOURS
    step = max(WORK // max(len(target), bins), 1)
    for start in range(0, len(pieces), step):
        part = known[start : start + step]
        keys = base + part + (np.arange(len(part)) * bins)[:, None]
        counts = np.bincount(keys.ravel(), minlength=len(part) * bins).reshape(len(part), COLOURS, width)
        yield len(target) - counts.max(1).sum(1)
        if deadline.expired():
            return


def _extended(table: Ints, seen: Bools, asked: Ints, depth: int) -> tuple[Ints, int, int]:
    """The table with answers for combinations that are asked for but were not seen; how many are guessed, how many unknown.

    A guess needs entries that agree with the combination in some pieces, and all of which copy the colour of one piece, or all of
    which give one colour. The entries that share most decide. Unknown combinations keep the colour of the first piece.
    """
    powers = COLOURS ** np.arange(depth - 1, -1, -1)
    digits = np.arange(len(table))[:, None] // powers % COLOURS  # (codes, pieces)
    entries, answers = digits[seen], table[seen]
    table = np.where(seen, table, digits[:, 0])
    guessed = unknown = 0
    for code in asked[~seen[asked]]:
        shared = entries == digits[code]
        filled = (entries != 0) == (digits[code] != 0)
        guess = None
        for alike in (shared, filled):
            for piece in np.argsort(-alike.sum(0), kind="stable"):
                same = alike[:, piece]
                if same.sum() < 2 or guess is not None:
                    continue
                copied = [
                    p for p in range(depth) if (entries[same, p] == answers[same]).all() and len(np.unique(answers[same])) > 1
                ]
                if copied:
                    guess = int(digits[code, copied[0]])
                elif (answers[same] == answers[same][0]).all():
                    guess = int(answers[same][0])
        table[code] = digits[code, 0] if guess is None else guess
        guessed, unknown = guessed + (guess is not None), unknown + (guess is None)
    return table, guessed, unknown


def _candidate(pieces: Pieces, state: _State, target: Ints, pair: NDArray[np.int64], demonstrations: int) -> Candidate:
    depth = len(state.pieces)
    known = state.codes[: len(target)]
    counts = _counts(known, target, depth)
    table = counts.argmax(1)
    seen = counts.sum(1) > 0
    shown = np.bincount(np.unique(known * demonstrations + pair) // demonstrations, minlength=len(seen))  # demonstrations by code
    first = np.arange(len(table)) // COLOURS ** (depth - 1)
    changes = seen & (table != first)
    asked = np.unique(state.codes[len(target) :])
    table, guessed, unknown = _extended(table, seen, asked, depth)
    cost = sum(pieces.cost[list(state.pieces)]) + depth - 1 + ENTRY_COST * int(changes.sum())
    cost += UNSUPPORTED_COST * int((shown[asked] == 1).sum()) * (demonstrations > 1)
    cost += GUESS_COST * guessed + UNSEEN_COST * bool(unknown)
    names = " | ".join(pieces.name(p) for p in state.pieces)
    grids = pieces.tests(table[state.codes[len(target) :]].astype(np.uint8), demonstrations)
    return Candidate(tuple(grids), f"colours of ({names})", float(cost), 1.0)
