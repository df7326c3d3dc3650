"""Learnt tables: the output's colour at a cell as a function of the colours of one to three pieces at that cell.

One piece gives a learnt colour map, two give the logical operations on two halves of a grid, recolouring of objects by what a
feature says about them, and so on. A beam search adds pieces that make the output's colour more certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from solver.arc.grid import COLOURS
from solver.programs.batch import Bools, Ints
from solver.programs.found_program import FoundProgram
from solver.programs.pieces import Pieces, pair_of_cell
from solver.types import Deadline

BEAM = 16
MAX_DEPTH = 3
MAX_EXACT = 40  # exact tables from one set of pieces and a further one
WORK = 400_000  # cells of pieces that one step looks at
BEAM_WORK = 12_000_000  # cells of pieces that the beam looks at to add a piece; MIN_PIECES in any case
MIN_PIECES = 150
MAX_CHEAP = 80  # pieces, the cheapest, of which all pairs are tried
ENTRY_COST = 0.15  # of every entry of a table that does not keep the colour of its first piece
RARE_COST = 1.0  # of such an entry, divided by the number of demonstration cells that show it
FEW_CELLS = 30  # cells of all outputs; with more of them RARE_COST falls in proportion
UNSUPPORTED_COST = 0.3  # of every entry that the tests ask for and only one of several demonstrations shows
GUESS_COST = 0.6  # of every combination that no demonstration shows, and whose answer similar ones suggest
UNSEEN_COST = 3.0  # of a table that is asked for a combination whose answer nothing suggests


@dataclass(frozen=True, eq=False)
class _State:
    pieces: tuple[int, ...]
    codes: Ints  # (cells of all pairs,) the colours of the pieces as one number
    mistakes: int

    def plus(self, pieces: Pieces, piece: int, mistakes: int) -> _State:
        """With a further piece."""
        return _State((*self.pieces, piece), self.codes * COLOURS + pieces.cells[piece], mistakes)


def table_candidates(pieces: Pieces, demonstrations: int, deadline: Deadline) -> Iterator[FoundProgram]:
    """Candidates whose table is exact on all demonstrations."""
    if not len(pieces):
        return
    target = pieces.target.astype(np.int64)
    pair = pair_of_cell(pieces.shapes, demonstrations)
    beam = [_State((), np.zeros(pieces.cells.shape[1], np.int64), len(target))]
    seen: set[tuple[int, ...]] = set()
    for depth in range(1, MAX_DEPTH + 1):
        offers: list[tuple[float, int, int, int]] = []  # rank, number of the state, piece, mistakes
        exact = False
        for number, state in enumerate(beam):
            mistakes = _mistakes(pieces, state, target, deadline)
            for piece in np.flatnonzero(mistakes == 0)[:MAX_EXACT]:
                members = tuple(sorted((*state.pieces, int(piece))))
                if members not in seen:
                    seen.add(members)
                    exact = True
                    yield _candidate(pieces, state.plus(pieces, int(piece), 0), target, pair, demonstrations)
            worth = np.flatnonzero((mistakes < state.mistakes) & (mistakes > 0))
            rank = mistakes[worth] + 0.25 * pieces.cost[worth] + 0.25 * sum(pieces.cost[list(state.pieces)])
            for place in np.argsort(rank, kind="stable")[: 2 * BEAM]:
                offers.append((float(rank[place]), number, int(worth[place]), int(mistakes[worth[place]])))
            if deadline.expired():
                return
        if exact and depth > 1:  # more pieces would only cost more
            return
        states: list[_State] = []
        for _, number, piece, wrong in sorted(offers):
            members = tuple(sorted((*beam[number].pieces, piece)))
            if members not in seen and len(states) < BEAM:
                seen.add(members)
                states.append(beam[number].plus(pieces, piece, wrong))
        beam = states


def pair_candidates(pieces: Pieces, demonstrations: int, deadline: Deadline) -> Iterator[FoundProgram]:
    """Candidates with exact tables of two of the cheapest pieces, neither of which need say much alone."""
    target = pieces.target.astype(np.int64)
    pair = pair_of_cell(pieces.shapes, demonstrations)
    count = min(len(pieces), MAX_CHEAP, max(WORK * 8 // len(target) // MAX_CHEAP, 10))
    for piece in range(count):
        single = _State((piece,), pieces.cells[piece].astype(np.int64), len(target))
        mistakes = _mistakes(pieces, single, target, deadline, piece)
        for other in np.flatnonzero(mistakes[:piece] == 0):
            yield _candidate(pieces, single.plus(pieces, int(other), 0), target, pair, demonstrations)
        if deadline.expired():
            return


def _counts(codes: Ints, target: Ints, depth: int) -> Ints:
    """How often each code comes with each colour of the output, (10 ** depth, 10)."""
    return np.bincount(codes * COLOURS + target, minlength=COLOURS ** (depth + 1)).reshape(-1, COLOURS)


def _mistakes(pieces: Pieces, state: _State, target: Ints, deadline: Deadline, limit: int | None = None) -> Ints:
    """For each of the first pieces: demonstration cells that the best table of the state's pieces and it gets wrong.

    Without a `limit` as many pieces as BEAM_WORK allows, or all for the first piece of a table. Fewer if the deadline comes.
    """
    if limit is None and state.pieces:
        limit = max(BEAM_WORK // (BEAM * len(target)), MIN_PIECES)
    known = pieces.known[:limit]
    different, codes = np.unique(state.codes[: len(target)], return_inverse=True)
    width = len(different) * COLOURS  # codes with a further piece
    base = target * width + codes * COLOURS
    bins = width * COLOURS
    step = max(WORK // max(len(target), bins), 1)
    found = [np.zeros(0, np.int64)]
    for start in range(0, len(known), step):
        part = known[start : start + step]
        keys = base + part + (np.arange(len(part)) * bins)[:, None]
        counts = np.bincount(keys.ravel(), minlength=len(part) * bins).reshape(len(part), COLOURS, width)
        found.append(len(target) - counts.max(1).sum(1))
        if deadline.expired():
            break
    return np.concatenate(found)


def _extended(table: Ints, seen: Bools, asked: Ints, depth: int) -> tuple[Ints, int, int]:
    """The table with answers for combinations that are asked for but unseen; how many are guesses, how many unknown.

    A guess needs entries that are like the combination in one piece, and all of which copy the colour of one piece or all of
    which give one colour. Unknown combinations keep the colour of the first piece.
    """
    powers = COLOURS ** np.arange(depth - 1, -1, -1)
    digits = np.arange(len(table))[:, None] // powers % COLOURS  # (codes, pieces)
    entries, answers = digits[seen], table[seen]
    table = np.where(seen, table, digits[:, 0])
    guessed = unknown = 0
    for code in asked[~seen[asked]]:
        guess = _guess(entries, answers, digits[code])
        table[code] = digits[code, 0] if guess is None else guess
        guessed, unknown = guessed + (guess is not None), unknown + (guess is None)
    return table, guessed, unknown


def _guess(entries: Ints, answers: Ints, asked: Ints) -> int | None:
    """An answer for the colours `asked` (pieces,), from entries that have the same colour, or also 0 or not, in one piece."""
    alike = [*(entries == asked).T, *((entries != 0) == (asked != 0)).T]
    groups = [group for group in sorted(alike, key=lambda group: -int(group.sum())) if group.sum() > 1]
    for group in groups:
        for piece, colour in enumerate(asked):
            if (entries[group, piece] == answers[group]).all() and len(np.unique(answers[group])) > 1:
                return int(colour)
    for group in groups:
        if (answers[group] == answers[group][0]).all():
            return int(answers[group][0])
    return None


def _candidate(pieces: Pieces, state: _State, target: Ints, pair: Ints, demonstrations: int) -> FoundProgram:
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
    cost += RARE_COST * float((1 / counts.sum(1)[changes]).sum()) * min(1.0, FEW_CELLS / len(target))
    cost += UNSUPPORTED_COST * int((shown[asked] == 1).sum()) * (demonstrations > 1)
    cost += GUESS_COST * guessed + UNSEEN_COST * bool(unknown)
    names = " | ".join(pieces.name(p) for p in state.pieces)
    grids = pieces.tests(table[state.codes[len(target) :]].astype(np.uint8), demonstrations)
    return FoundProgram(tuple(grids), f"colours of ({names})", float(cost), 1.0)
