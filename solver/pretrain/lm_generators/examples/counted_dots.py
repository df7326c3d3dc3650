"""The output is a single row. For every colour, from 1 to 9, it has as many cells as the input has dots of that colour."""

from collections import Counter


def generate(rng):
    size = rng.randint(6, 12)
    grid = [[0] * size for _ in range(size)]
    colours = rng.sample(range(1, 10), rng.randint(2, 4))
    places = [(r, c) for r in range(0, size, 2) for c in range(0, size, 2)]
    dots = rng.sample(places, min(len(places), rng.randint(4, 12)))
    for place, (r, c) in enumerate(dots):
        grid[r][c] = colours[place] if place < len(colours) else rng.choice(colours)

    counts = Counter(cell for row in grid for cell in row if cell)
    return grid, [[colour for colour in sorted(counts) for _ in range(counts[colour])]]
