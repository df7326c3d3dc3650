"""Walls are drawn in green. Black areas that walls enclose completely, so that no path leads to the border, are filled with
yellow.
"""

GREEN, YELLOW = 3, 4


def outside(grid):
    rows, columns = len(grid), len(grid[0])
    border = [(r, c) for r in range(rows) for c in range(columns) if r in (0, rows - 1) or c in (0, columns - 1)]
    waiting = [(r, c) for r, c in border if grid[r][c] == 0]
    seen = set(waiting)
    while waiting:
        r, c = waiting.pop()
        for near in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
            if near not in seen and 0 <= near[0] < rows and 0 <= near[1] < columns and grid[near[0]][near[1]] == 0:
                seen.add(near)
                waiting.append(near)
    return seen


def generate(rng):
    rows, columns = rng.randint(9, 15), rng.randint(9, 15)
    grid = [[0] * columns for _ in range(rows)]
    for place in range(rng.randint(2, 4)):
        height, width = rng.randint(3, 6), rng.randint(3, 6)
        top, left = rng.randint(0, rows - height), rng.randint(0, columns - width)
        for r in range(top, top + height):
            for c in range(left, left + width):
                if r in (top, top + height - 1) or c in (left, left + width - 1):
                    grid[r][c] = GREEN
        if place and rng.random() < 0.5:
            grid[top][left + 1] = 0

    free = outside(grid)
    output = [[YELLOW if cell == 0 and (r, c) not in free else cell for c, cell in enumerate(row)] for r, row in enumerate(grid)]
    return grid, output
