"""The list of tests/conformance, asked by the Python client."""

import json
import pathlib
import subprocess
import tempfile
import unittest

import numpy
from servers import SOURCE, Server

import dotmax

FOLDER = SOURCE / "tests/conformance"
NUMPY_TYPES = {"FLOAT32": "f4", "FLOAT64": "f8", "INT8": "i1"}


def rows(matrix):
    if matrix["dtype"] == "BFLOAT16":
        return dotmax.bfloat16(numpy.array(matrix["bits"], numpy.uint16).reshape(-1, matrix["dim"]))
    if matrix["dtype"] == "FLOAT16":
        return numpy.array(matrix["bits"], numpy.uint16).view(numpy.float16).reshape(-1, matrix["dim"])
    return numpy.array(matrix["values"], NUMPY_TYPES[matrix["dtype"]]).reshape(-1, matrix["dim"])


def options(request):
    named = {key: request[key] for key in ("collection", "top_k", "min_score", "max_score", "count_only", "exclude", "version") if key in request}
    named |= {key: request[key].lower() for key in ("metric", "reduction", "self_pairs") if key in request}
    return named


def reply_of(result):
    """A result as the list has it."""
    if isinstance(result, dotmax.Error):
        return {"error": error_of(result)}
    best = result.best and {"query_row": result.best.query_row, "id": result.best.id, "score": result.best.score}
    if isinstance(result, dotmax.PairsResult):
        reply = {name: getattr(result, name).tolist() for name in ("pairs", "query_rows", "ids", "scores")}
        return {"reply": reply | {"best": best and {"pair": result.best.pair, **best}}}
    reply = {"ids": result.flat_ids.tolist(), "scores": result.flat_scores.tolist(), "best": best}
    if result.query_rows is None:
        reply["row_splits"] = result.row_splits.tolist()
    else:
        reply["query_rows"] = result.query_rows.tolist()
    for name in ("truncated", "counts"):
        if len(getattr(result, name)):
            reply[name] = getattr(result, name).tolist()
    return {"reply": reply}


def error_of(error):
    return {"code": error.code.name, "reason": error.reason, "fields": [violation.field for violation in error.fields]}


def ask(client, call, request):
    if call == "search" and "queries" in request:
        return reply_of(client.search(rows(request["queries"]), **options(request)))
    if call == "search":
        chosen = request["resident_queries"]
        named = {"of": chosen.get("collection", ""), "first": chosen["first"], "rows": chosen.get("rows", 0)}
        return reply_of(client.search_rows(**named, **options(request)))
    if call == "max":
        named = {"reduction": "per_row", **options(request)}
        return reply_of(client.max(rows(request["queries"]), rows(request["base"]), **named))
    if call == "pairs":
        pairs = [(rows(pair["queries"]), rows(pair["base"])) for pair in request["pairs"]]
        return reply_of(client.pairs(pairs, **options(request)))
    if call == "stream":
        results = {}
        batches = [rows(each["queries"]) for each in request]
        named = options(request[0])
        for result in client.search_stream(batches, on_error=lambda e: results.update({e.tag: reply_of(e)}), **named):
            results[result.tag] = reply_of(result)
        return {"replies": [results[tag] for tag in range(len(batches))]}
    if call == "list":
        held = client.describe().collections
        return {"reply": [{"name": c.name, "rows": c.rows, "dim": c.dim, "dtype": c.dtype.upper()} for c in held]}
    return {"reply": getattr(client, call)(**request)}


class ConformanceTest(unittest.TestCase):
    def test_every_case(self):
        cases = json.loads((FOLDER / "cases.json").read_text())
        self.assertGreater(len(cases), 50)
        flags = [f"--matrix={path}" for path in sorted(FOLDER.glob("*.npy"))]
        with Server(*flags, f"--data-dir={FOLDER}") as server, dotmax.Client(server.target) as client:
            for case in cases:
                with self.subTest(case["name"]):
                    try:
                        got = ask(client, case["call"], case["request"])
                    except dotmax.Error as error:
                        got = {"error": error_of(error)}
                    expected = {key: case[key] for key in ("reply", "replies", "error") if key in case}
                    # As text: 0.0 is not -0.0.
                    self.assertEqual(json.dumps(got, sort_keys=True), json.dumps(expected, sort_keys=True))

    def test_the_list_is_what_its_program_makes(self):
        with tempfile.TemporaryDirectory() as made:
            subprocess.run([FOLDER / "make_cases.py", made], check=True)
            for file in pathlib.Path(made).iterdir():
                self.assertEqual(file.read_bytes(), (FOLDER / file.name).read_bytes(), file.name)


if __name__ == "__main__":
    unittest.main()
