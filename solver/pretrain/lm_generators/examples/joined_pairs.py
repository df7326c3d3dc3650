"""Two cells of the same colour in one row are joined by a line of that colour. Cells that are alone stay as they are."""


def generate(rng):
    rows, columns = rng.randint(8, 15), rng.randint(8, 15)
    grid = [[0] * columns for _ in range(rows)]
    output = [[0] * columns for _ in range(rows)]

    chosen = rng.sample(range(rows), rng.randint(3, rows // 2))
    for place, row in enumerate(chosen):
        colour = rng.randint(1, 9)
        left, right = sorted(rng.sample(range(columns), 2))
        if place == 0 and right - left < 2:
            left, right = 0, columns - 1
        grid[row][left] = output[row][left] = colour
        if place != len(chosen) - 1:
            grid[row][right] = colour
            output[row][left : right + 1] = [colour] * (right - left + 1)
    return grid, output
