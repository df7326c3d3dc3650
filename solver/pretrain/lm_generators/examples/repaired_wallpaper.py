"""A small tile repeats over the whole grid, but black patches hide parts of it. The output is the whole pattern."""


def generate(rng):
    size = rng.randint(10, 16)
    tile_rows, tile_columns = rng.randint(2, 4), rng.randint(2, 4)
    colours = rng.sample(range(1, 10), rng.randint(2, 4))
    tile = [[rng.choice(colours) for _ in range(tile_columns)] for _ in range(tile_rows)]
    whole = [[tile[r % tile_rows][c % tile_columns] for c in range(size)] for r in range(size)]

    hidden = [row[:] for row in whole]
    for _ in range(rng.randint(1, 3)):
        top, left = rng.randrange(size - 3), rng.randrange(size - 3)
        for r in range(top, top + rng.randint(2, 3)):
            hidden[r][left : left + 3] = [0, 0, 0]
    return hidden, whole
