"""A red dot gets four light blue neighbours, above, below, left and right of it. A blue dot gets four orange neighbours, at
its corners.
"""

RED, LIGHT_BLUE, BLUE, ORANGE = 2, 8, 1, 7
STRAIGHT = ((0, 1), (0, -1), (1, 0), (-1, 0))
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def generate(rng):
    rows, columns = rng.randint(7, 14), rng.randint(7, 14)
    places = [(r, c) for r in range(1, rows - 1, 3) for c in range(1, columns - 1, 3)]
    dots = rng.sample(places, rng.randint(2, min(6, len(places))))
    grid = [[0] * columns for _ in range(rows)]
    output = [[0] * columns for _ in range(rows)]
    for r, c in dots:
        dot = rng.choice([RED, BLUE])
        grid[r][c] = output[r][c] = dot
        for down, right in STRAIGHT if dot == RED else CORNERS:
            output[r + down][c + right] = LIGHT_BLUE if dot == RED else ORANGE
    return grid, output
