#!/usr/bin/python3
"""What people use where there is no dotmax, for questions.py: loads two float32 files, then times what each line of
standard input asks for. Answers are lines of JSON.

  rivals.py BASE.npy QUERIES.npy      {"FAISS": "1.7.3", ...}: versions
  rivals.py --pairs QUERY_ROWS BASE_ROWS BASE.npy QUERIES.npy
                                      the same with the files cut into pairs of matrices, of as many rows
  NAME THREADS                        {"seconds": 0.01, "scores": [...], "ids": [...]}, of a function below; ids only
                                      where it finds them
"""

import json
import sys

import machine  # first: see there

import faiss
import numpy
import threadpoolctl
import torch

import peers


class Matrices:
    """The queries A, M × D, against the base B, N × D."""

    def __init__(self, base, queries):
        self.a, self.b = queries, base
        self.tensors = torch.from_numpy(queries), torch.from_numpy(base)
        self.l2 = faiss.IndexFlatL2(base.shape[1])
        self.l2.add(base)

    def python(self):
        a_rows, b_rows = self.a.tolist(), self.b.tolist()
        return machine.seconds(self._python, a_rows, b_rows)

    @staticmethod
    def _python(a_rows, b_rows):
        score, _, j = max(
            (sum(x * y for x, y in zip(a, b)), i, j) for i, a in enumerate(a_rows) for j, b in enumerate(b_rows)
        )
        return [score], [j]

    def numpy(self):
        return machine.seconds(self._numpy)

    def _numpy(self):
        scores = self.a @ self.b.T
        ids = scores.argmax(axis=1)  # takes as long as max
        return scores[numpy.arange(len(ids)), ids], ids

    def numpy_blocks(self):
        """As peers.py has it: for those who know."""
        return machine.seconds(peers.best_in_blocks, self.b, self.a)

    def torch(self):
        return machine.seconds(self._torch)

    def _torch(self):
        a, b = self.tensors
        best = torch.mm(a, b.T).max(dim=1)
        return best.values, best.indices

    def torch_global(self):
        return machine.seconds(self._torch_global)

    def _torch_global(self):
        a, b = self.tensors
        return [float(torch.max(torch.mm(a, b.T)))], []

    def faiss_l2(self):
        taken, (scores, ids) = machine.seconds(self.l2.search, self.a, 1)
        return taken, (scores[:, 0], ids[:, 0])


class Pairs:
    """The best score of each pair of matrices; nobody here says where it is."""

    def __init__(self, base, queries, query_rows, base_rows):
        self.a = torch.from_numpy(queries.reshape(-1, query_rows, queries.shape[1]))
        self.b = torch.from_numpy(base.reshape(-1, base_rows, base.shape[1]))

    def torch_loop(self):
        pairs = list(zip(self.a, self.b))
        return machine.seconds(lambda: ([float(torch.max(torch.mm(a, b.T))) for a, b in pairs], []))

    def torch_bmm(self):
        return machine.seconds(lambda: (torch.bmm(self.a, self.b.transpose(1, 2)).amax(dim=(1, 2)), []))


def main():
    base, queries = (numpy.load(path) for path in sys.argv[-2:])
    if sys.argv[1] == "--pairs":
        rivals = Pairs(base, queries, int(sys.argv[2]), int(sys.argv[3]))
    else:
        rivals = Matrices(base, queries)
    print(json.dumps(peers.versions()), flush=True)
    for line in sys.stdin:
        name, threads = line.split()
        threadpoolctl.threadpool_limits(limits=int(threads))
        torch.set_num_threads(int(threads))
        taken, (scores, ids) = getattr(rivals, name)()
        lists = {"scores": numpy.asarray(scores, float).tolist(), "ids": numpy.asarray(ids, int).tolist()}
        print(json.dumps({"seconds": taken} | lists), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
