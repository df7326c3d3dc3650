"""Bars of different heights stand on the bottom. They are sorted by height, the shortest one on the left, and keep their
colours.
"""


def generate(rng):
    rows = rng.randint(6, 12)
    count = rng.randint(3, min(6, rows - 1))
    heights = rng.sample(range(1, rows), count)
    if heights == sorted(heights):
        heights.reverse()
    bars = [(height, rng.randint(1, 9)) for height in heights]

    def drawn(bars):
        grid = [[0] * (2 * count - 1) for _ in range(rows)]
        for place, (height, colour) in enumerate(bars):
            for r in range(rows - height, rows):
                grid[r][2 * place] = colour
        return grid

    return drawn(bars), drawn(sorted(bars))
