"""A yellow frame lies on a noisy background. The output is what the frame encloses, without the frame."""

FRAME = 4


def generate(rng):
    rows, columns = rng.randint(10, 16), rng.randint(10, 16)
    colours = rng.sample([1, 2, 3, 6, 7, 8, 9], 3)
    grid = [[rng.choice([0, 0, *colours]) for _ in range(columns)] for _ in range(rows)]

    height, width = rng.randint(4, 7), rng.randint(4, 7)
    top, left = rng.randint(0, rows - height), rng.randint(0, columns - width)
    bottom, right = top + height - 1, left + width - 1
    for r in range(top, bottom + 1):
        for c in range(left, right + 1):
            if r in (top, bottom) or c in (left, right):
                grid[r][c] = FRAME

    inside = [row[left + 1 : right] for row in grid[top + 1 : bottom]]
    return grid, inside
