"""Every coloured cell falls straight down until it rests on the bottom or on another cell."""


def generate(rng):
    rows, columns = rng.randint(5, 12), rng.randint(4, 12)
    grid = [[0] * columns for _ in range(rows)]
    for _ in range(rng.randint(columns, 2 * columns)):
        grid[rng.randrange(rows - 1)][rng.randrange(columns)] = rng.choice([1, 2, 4, 8])
    grid[rng.randrange(rows - 1)][0] = 3
    grid[rows - 1][0] = 0

    fallen = []
    for column in zip(*grid):
        cells = [cell for cell in column if cell]
        fallen.append([0] * (rows - len(cells)) + cells)
    return grid, [list(row) for row in zip(*fallen)]
