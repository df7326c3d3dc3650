"""The output is a large grid of copies of the input: one copy in the place of each coloured cell, and nothing in the place of
each black cell.
"""


def generate(rng):
    size = rng.randint(2, 4)
    colour = rng.randint(1, 9)
    cells = [colour] + [rng.choice([0, colour]) for _ in range(size * size - 2)] + [0]
    rng.shuffle(cells)
    grid = [cells[r * size : (r + 1) * size] for r in range(size)]

    output = [[0] * (size * size) for _ in range(size * size)]
    for r in range(size * size):
        for c in range(size * size):
            if grid[r // size][c // size]:
                output[r][c] = grid[r % size][c % size]
    return grid, output
