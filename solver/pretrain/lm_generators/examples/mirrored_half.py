"""A gray line splits the grid. The drawing on its left is mirrored to the empty side on its right."""

LINE = 5


def generate(rng):
    rows, half = rng.randint(4, 12), rng.randint(3, 9)
    palette = rng.sample([1, 2, 3, 4, 6, 7, 8, 9], 2)
    left = [[rng.choice([0, 0, *palette]) for _ in range(half)] for _ in range(rows)]
    left[rng.randrange(rows)][rng.randrange(half)] = palette[0]

    shown = [row + [LINE] + [0] * half for row in left]
    mirrored = [row + [LINE] + row[::-1] for row in left]
    return shown, mirrored
