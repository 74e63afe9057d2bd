#!/usr/bin/python3
"""Files that others write, and what others read of ours: dotmax convert and eval against numpy and h5py.

  tests/files_check.py --dotmax build/ci/client/cli/dotmax --server build/ci/server/dotmax-server
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import fsum_check
import h5py
import numpy


def require(condition, what):
    if not condition:
        sys.exit(f"files_check.py: {what}")


class Check:
    def __init__(self, program, directory):
        self.program = program
        self.directory = pathlib.Path(directory)

    def path(self, name):
        return str(self.directory / name)

    def run(self, *words, code=0):
        """The output of a command that ends with `code`: standard output, or what it says of its failure."""
        ran = subprocess.run([self.program, *words], capture_output=True, text=True)
        require(ran.returncode == code, f"dotmax {' '.join(words)} exits with {ran.returncode}: {ran.stderr}")
        return ran.stdout if code == 0 else ran.stderr

    def convert(self, source, target, *flags):
        self.run("convert", self.path(source), self.path(target), *flags)
        return self.path(target)

    def refused(self, named, source, target, *flags):
        said = self.run("convert", self.path(source), self.path(target), *flags, code=3)
        require(named in said, f"convert {source} {target} says {said!r}, not {named!r}")
        require(not pathlib.Path(self.path(target)).exists(), f"{target} was left behind")


def vecs(path, kind):
    """Rows of a .bvecs, .fvecs or .ivecs file, as their description has them."""
    raw = numpy.fromfile(path, numpy.uint8)
    dim = raw[:4].view("<i4")[0]
    rows = raw.reshape(-1, 4 + dim * numpy.dtype(kind).itemsize)
    require((numpy.ascontiguousarray(rows[:, :4]).view("<i4") == dim).all(), f"{path}: dims differ")
    return numpy.ascontiguousarray(rows[:, 4:]).view(kind)


def bins(path, kind):
    rows, dim = numpy.fromfile(path, "<u4", 2)
    return numpy.fromfile(path, kind, offset=8).reshape(rows, dim)


def conversions(check):
    random = numpy.random.default_rng(1)
    pixels = random.integers(0, 256, (700, 33)).astype(numpy.uint8)
    reals = random.standard_normal((500, 17)).astype(numpy.float32)
    numpy.save(check.path("pixels.npy"), pixels)
    numpy.save(check.path("reals.npy"), reals)
    numpy.save(check.path("signed.npy"), (pixels.astype(int) - 128).astype(numpy.int8))
    pathlib.Path(check.path("reals.ids")).write_text("".join(f"row {i}\n" for i in range(500)))

    for target, read, kind in (("p.bvecs", vecs, "u1"), ("p.ivecs", vecs, "<i4"), ("p.fvecs", vecs, "<f4"),
                               ("p.u8bin", bins, "u1"), ("p.fbin", bins, "<f4")):
        check.convert("pixels.npy", target)
        require((read(check.path(target), kind) == pixels).all(), f"{target} differs")
        back = numpy.load(check.convert(target, f"{target}.npy"))
        require((back == pixels).all() and back.shape == pixels.shape, f"{target} does not read back")
    back = numpy.load(check.convert("p.u8bin", "bytes.npy", "--dtype=uint8"))
    require(back.dtype == numpy.uint8 and (back == pixels).all(), "uint8 in .npy")
    check.convert("signed.npy", "s.i8bin")
    require((bins(check.path("s.i8bin"), "i1") == numpy.load(check.path("signed.npy"))).all(), "s.i8bin differs")
    for dtype in ("float16", "float32", "float64"):
        back = numpy.load(check.convert("reals.npy", "r.npy", f"--dtype={dtype}", "--round"))
        require(back.dtype == dtype and (back == reals.astype(dtype)).all(), f"{dtype} in .npy")
    require(pathlib.Path(check.path("r.ids")).read_text().startswith("row 0\n"), "names do not go along")

    check.refused("which uint8 does not have", "reals.npy", "r.u8bin")
    check.refused("which float16 does not have", "reals.npy", "h.npy", "--dtype=float16")
    check.refused("unknown extension", "reals.npy", "r.parquet")
    check.refused("cannot be opened", "none.npy", "n.fbin")
    said = check.run("convert", check.path("reals.npy"), check.path("reals.npy"), code=3)
    require("is the file that is read" in said, said)

    # HDF5, both ways.
    check.convert("reals.npy", "made.hdf5")
    check.convert("pixels.npy", "made.hdf5/test")
    with h5py.File(check.path("made.hdf5")) as made:
        require((made["train"][:] == reals).all() and made["train"].dtype == numpy.float32, "made.hdf5/train")
        require((made["test"][:] == pixels).all(), "made.hdf5/test")
    said = check.run("convert", check.path("reals.npy"), check.path("made.hdf5"), code=3)
    require('there is a "train" already' in said, said)
    with h5py.File(check.path("theirs.h5"), "w") as theirs:
        for name, values in {
            "half": reals.astype(numpy.float16),
            "big": reals.astype(">f8"),
            "short": (reals * 1000).astype(numpy.int16),
            "long": (reals * 1e9).astype(numpy.int64),
            "pixels": pixels,
        }.items():
            theirs.create_dataset(name, data=values, chunks=(64, values.shape[1]), compression="gzip")
        theirs["wide"] = numpy.array([[2**53 + 1]])
        theirs["flat"] = numpy.zeros(5)
        theirs["words"] = numpy.array([[b"a"]])
        theirs["nan"] = numpy.array([[0.0, numpy.nan]])
    with h5py.File(check.path("theirs.h5")) as theirs:
        for name in ("half", "big", "short", "long", "pixels"):
            back = numpy.load(check.convert(f"theirs.h5/{name}", f"{name}.npy"))
            require((back == theirs[name][:]).all(), f"theirs.h5/{name} differs")
    check.refused("integers beyond 2^53", "theirs.h5/wide", "x.npy")
    check.refused("two dimensions", "theirs.h5/flat", "x.npy")
    check.refused("no numbers", "theirs.h5/words", "x.npy")
    check.refused("nan in row 0, column 1", "theirs.h5/nan", "x.npy")
    check.refused("there are big, flat, half", "theirs.h5/none", "x.npy")
    check.refused("is no HDF5 file", "fake.hdf5", "x.npy")
    return pixels


def data_sets(check):
    """Data sets as ann-benchmarks makes them: neighbours by float32 arithmetic."""
    random = numpy.random.default_rng(2)
    train = random.standard_normal((5000, 24)).astype(numpy.float32)
    train[100:110] = train[0]  # rows that tie
    test = random.standard_normal((300, 24)).astype(numpy.float32)
    lengths = numpy.linalg.norm(train, axis=1), numpy.linalg.norm(test, axis=1)
    scores = {
        "angular": (test @ train.T) / lengths[0] / lengths[1][:, None],
        "euclidean": -(((test[:, None, :] - train[None]) ** 2).sum(axis=2)),
        "ip": test @ train.T,
    }
    for distance, values in scores.items():
        with h5py.File(check.path(f"{distance}.hdf5"), "w") as made:
            made["train"], made["test"] = train, test
            made["neighbors"] = numpy.argsort(-values, axis=1, kind="stable")[:, :20].astype(numpy.int32)
            made.attrs["distance"] = distance
        for flags in (["--top-k=10"], ["--top-k=50", "--batch=7", "--threads=1"]):
            said = json.loads(check.run("eval", check.path(f"{distance}.hdf5"), *flags))
            require(said["recall"] == 1.0, f"eval of {distance}: {said}")
            require(said["same_ids"] > 0.99 and said["neighbors_right"] > 0.999, f"eval of {distance}: {said}")
            require(said["top_k"] == min(20, int(flags[0][8:])) and said["queries"] == 300, f"eval: {said}")
    # Neighbours that are wrong are told from answers that are.
    with h5py.File(check.path("angular.hdf5"), "r+") as wrong:
        wrong["neighbors"][:, :5] = numpy.arange(2000, 2005)
    said = json.loads(check.run("eval", check.path("angular.hdf5")))
    require(said["recall"] == 1.0 and 0.4 < said["neighbors_right"] < 0.6, f"eval of wrong neighbours: {said}")
    table = check.run("eval", check.path("ip.hdf5"), "--table", "--queries=50")
    require("recall" in table and "1.000000" in table, table)

    with h5py.File(check.path("angular.hdf5"), "r+") as broken:
        broken["neighbors"][7, 3] = 5000
    require("names row 5000 of 5000" in check.run("eval", check.path("angular.hdf5"), code=3), "neighbour out of range")
    with h5py.File(check.path("ip.hdf5"), "r+") as broken:
        del broken.attrs["distance"]
    require("does not say its distance" in check.run("eval", check.path("ip.hdf5"), code=3), "no distance")
    check.run("eval", check.path("ip.hdf5"), "--metric=cosine")
    # A command's own HDF5 paths: train by default, test for queries.
    best = json.loads(check.run("max", "--local", check.path("ip.hdf5/test"), check.path("ip.hdf5"), "--json"))
    right = numpy.unravel_index(scores["ip"].argmax(), scores["ip"].shape)
    require((best["hits"][0]["query_row"], best["hits"][0]["id"]) == right, f"max of {best}")


def served(check, server_program, pixels):
    server, port = fsum_check.start(server_program, None, f"--matrix={check.path('p.u8bin')}", "--threads=1")
    try:
        words = [f"--server=127.0.0.1:{port}", f"--queries={check.path('p.bvecs')}", "--metric=squared_euclidean"]
        hits = [json.loads(line)["hits"][0] for line in check.run("search", *words, "--json").splitlines()]
    finally:
        server.terminate()
        server.wait(timeout=60)
    require([hit["id"] for hit in hits] == list(range(len(pixels))), "rows are not their own nearest")
    require(all(hit["score"] == 0 for hit in hits), "distances of rows to themselves")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dotmax", required=True)
    parser.add_argument("--server", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        check = Check(options.dotmax, directory)
        pathlib.Path(check.path("fake.hdf5")).write_text("no HDF5")
        pixels = conversions(check)
        data_sets(check)
        served(check, options.server, pixels)
    print("files and data sets: as numpy and h5py have them")


if __name__ == "__main__":
    main()
