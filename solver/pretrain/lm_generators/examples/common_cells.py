"""Two panels of the same size stand side by side, with a blue line between them. The output shows in green the cells that are
filled in both.
"""

BLUE, GREEN = 1, 3


def panel(rng, rows, columns, colour):
    return [[colour if rng.random() < 0.55 else 0 for _ in range(columns)] for _ in range(rows)]


def generate(rng):
    rows, columns = rng.randint(3, 8), rng.randint(3, 7)
    first, second = panel(rng, rows, columns, 7), panel(rng, rows, columns, 9)
    r, c = rng.randrange(rows), rng.randrange(columns)
    first[r][c], second[r][c] = 7, 9

    shown = [a + [BLUE] + b for a, b in zip(first, second)]
    both = [[GREEN if x and y else 0 for x, y in zip(a, b)] for a, b in zip(first, second)]
    return shown, both
