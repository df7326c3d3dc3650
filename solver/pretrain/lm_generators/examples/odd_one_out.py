"""Several tiles of the same size lie in a row, with black columns between them. All but one are equal up to their colour. The
output is the tile that differs.
"""


def pattern(rng, size):
    cells = [[rng.randrange(2) for _ in range(size)] for _ in range(size)]
    cells[rng.randrange(size)][rng.randrange(size)] = 1
    return cells


def generate(rng):
    size = rng.randint(3, 4)
    usual = pattern(rng, size)
    other = pattern(rng, size)
    while other == usual:
        other = pattern(rng, size)
    count = rng.randint(3, 5)
    odd = rng.randrange(count)
    colours = rng.sample(range(1, 10), count)

    tiles = []
    for place, colour in enumerate(colours):
        shape = other if place == odd else usual
        tiles.append([[colour if cell else 0 for cell in row] for row in shape])
    grid = []
    for r in range(size):
        row = []
        for tile in tiles:
            row += [*tile[r], 0]
        grid.append(row[:-1])
    return grid, tiles[odd]
