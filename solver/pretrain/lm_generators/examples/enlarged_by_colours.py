"""Every cell becomes a square block of its colour. The side of the blocks is the number of different colours in the input,
black included.
"""


def generate(rng):
    rows, columns = rng.randint(2, 6), rng.randint(2, 6)
    palette = [0, *rng.sample(range(1, 10), rng.randint(1, 3))]
    cells = palette + [rng.choice(palette) for _ in range(rows * columns - len(palette))]
    rng.shuffle(cells)
    grid = [cells[r * columns : (r + 1) * columns] for r in range(rows)]

    side = len(set(cells))
    output = []
    for row in grid:
        wide = [cell for cell in row for _ in range(side)]
        output += [wide[:] for _ in range(side)]
    return grid, output
