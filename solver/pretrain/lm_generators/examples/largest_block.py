"""There are several separate gray rectangles. The one with the most cells turns red, all others turn blue."""

GRAY, RED, BLUE = 5, 2, 1


def generate(rng):
    size = rng.randint(12, 18)
    while True:
        blocks = []
        for _ in range(60):
            height, width = rng.randint(1, 5), rng.randint(1, 5)
            top, left = rng.randrange(size - height), rng.randrange(size - width)
            apart = all(top > r + h or r > top + height or left > c + w or c > left + width for r, c, h, w in blocks)
            if apart and len(blocks) < 6:
                blocks.append((top, left, height, width))
        areas = sorted(h * w for _, _, h, w in blocks)
        if len(blocks) >= 3 and areas[-1] > areas[-2]:
            break

    grid = [[0] * size for _ in range(size)]
    output = [[0] * size for _ in range(size)]
    for top, left, height, width in blocks:
        colour = RED if height * width == areas[-1] else BLUE
        for r in range(top, top + height):
            for c in range(left, left + width):
                grid[r][c] = GRAY
                output[r][c] = colour
    return grid, output
