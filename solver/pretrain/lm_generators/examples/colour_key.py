"""The first column is a key: under a gray cell it lists pairs of colours, one above the other. In the drawing on the right,
each upper colour turns into the lower one of its pair.
"""

GRAY = 5


def generate(rng):
    pairs = rng.randint(2, 3)
    upper = rng.sample([1, 2, 3, 4], pairs)
    lower = rng.sample([6, 7, 8, 9], pairs)
    rows, columns = 1 + 3 * pairs + rng.randint(0, 3), rng.randint(4, 9)
    key = [0] * rows
    key[0] = GRAY
    for place in range(pairs):
        key[1 + 3 * place], key[2 + 3 * place] = upper[place], lower[place]

    drawing = [[rng.choice([0, 0, *upper]) for _ in range(columns)] for _ in range(rows)]
    drawing[rng.randrange(rows)][rng.randrange(columns)] = upper[0]
    turns = dict(zip(upper, lower)) | {0: 0}
    shown = [[k, 0, *row] for k, row in zip(key, drawing)]
    output = [[k, 0, *(turns[cell] for cell in row)] for k, row in zip(key, drawing)]
    return shown, output
