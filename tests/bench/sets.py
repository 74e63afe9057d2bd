"""The sets of vectors that peers.py measures: real ones and seeded synthetic ones, as float32 matrices.

What an exact search can rule out cheaply depends on the data. Lengths that differ (glove), few strong directions
(low-rank) and neighbours that stand out (clusters) help; white noise, where every direction is as good as any other and
all scores are close, is the worst case.
"""

import numpy

SEED = 1


def unit(rows):
    return rows / numpy.linalg.norm(rows, axis=1, keepdims=True)


def noise(rows, dim):
    """Independent standard normal numbers."""
    return numpy.random.default_rng(SEED).standard_normal((rows, dim), dtype=numpy.float32)


def low_rank(rows, dim, rank=64, noise_share=0.2):
    """Standard normal combinations of `rank` random directions, plus noise: 1 and `noise_share` per coordinate."""
    random = numpy.random.default_rng(SEED)
    directions = random.standard_normal((rank, dim), dtype=numpy.float32) / numpy.float32(rank**0.5)
    out = random.standard_normal((rows, dim), dtype=numpy.float32)
    out *= noise_share
    out += random.standard_normal((rows, rank), dtype=numpy.float32) @ directions
    return out


def clusters(rows, dim, centres=1000, spread=0.75):
    """Unit vectors about `centres` random unit vectors, off by about `spread` before they are made unit again."""
    random = numpy.random.default_rng(SEED)
    middle = unit(random.standard_normal((centres, dim), dtype=numpy.float32))
    out = random.standard_normal((rows, dim), dtype=numpy.float32)
    out *= spread / dim**0.5
    out += middle[random.integers(centres, size=rows)]
    return unit(out)


# By name: a function from the path of the GloVe matrix and the most rows that are wanted.
SETS = {
    "glove": lambda glove, most: numpy.load(glove)[:most],
    "glove-unit": lambda glove, most: unit(numpy.load(glove)[:most]),
    "noise-128": lambda _, most: noise(min(most, 200_000), 128),
    "noise-768": lambda _, most: noise(min(most, 100_000), 768),
    "low-rank-768": lambda _, most: low_rank(min(most, 200_000), 768),
    "clusters-384": lambda _, most: clusters(min(most, 200_000), 384),
}


def hold_out(rows, count):
    """`count` rows taken out, in random order, and the rest."""
    held = numpy.random.default_rng(SEED).choice(len(rows), count, replace=False)
    return rows[held], numpy.delete(rows, held, axis=0)
