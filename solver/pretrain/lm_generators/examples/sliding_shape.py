"""A shape of one colour slides towards the red wall, which fills one side of the grid, until it touches the wall."""

WALL = 2


def turned(grid):
    return [list(row) for row in zip(*grid[::-1])]


def generate(rng):
    rows, columns = rng.randint(8, 14), rng.randint(8, 14)
    colour = rng.choice([1, 3, 4, 6, 7, 8])
    height, width = rng.randint(2, 4), rng.randint(2, 4)
    shape = {(rng.randrange(height), c) for c in range(width)} | {(r, rng.randrange(width)) for r in range(height)}
    top, left = rng.randint(0, rows - height), rng.randint(0, columns - width - 2)

    before = [[0] * (columns - 1) + [WALL] for _ in range(rows)]
    after = [row[:] for row in before]
    shift = columns - 2 - (left + max(c for _, c in shape))
    for r, c in shape:
        before[top + r][left + c] = colour
        after[top + r][left + c + shift] = colour
    for _ in range(rng.randrange(4)):
        before, after = turned(before), turned(after)
    return before, after
