"""A cell in the bottom row starts a ray that goes up diagonally to the right. At the left and the right border it bounces.
The ray has the colour of the cell.
"""


def generate(rng):
    rows, columns = rng.randint(6, 16), rng.randint(3, 8)
    colour = rng.randint(1, 9)
    column = rng.randrange(columns)
    grid = [[0] * columns for _ in range(rows)]
    grid[-1][column] = colour

    output = [row[:] for row in grid]
    step = 1
    for r in range(rows - 2, -1, -1):
        if not 0 <= column + step < columns:
            step = -step
        column += step
        output[r][column] = colour
    return grid, output
