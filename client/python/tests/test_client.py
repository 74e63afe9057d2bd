"""The Python client against real servers: every method, blocking and by asyncio, and what it says of failures."""

import asyncio
import math
import os
import pathlib
import subprocess
import tempfile
import unittest

import grpc
import numpy
from servers import Server, matrix

import dotmax
import dotmax.aio
from dotmax import _arrays
from dotmax.v1 import dotmax_pb2, matrix_pb2

ROWS, DIM, SEED = 1000, 24, 7
METRICS = {
    "inner_product": lambda a, b: math.fsum(x * y for x, y in zip(a, b)),
    # Exact, as the products of these float32 numbers are float64 numbers, and 2ab is, too.
    "squared_euclidean": lambda a, b: math.fsum(
        term for x, y in zip(a, b) for term in (x * x, y * y, -2.0 * x * y)
    ),
}


def setUpModule():
    global directory, base, server
    directory = tempfile.TemporaryDirectory()
    base = numpy.random.default_rng(SEED).normal(size=(ROWS, DIM)).astype(numpy.float32)
    other = base[:100, :8].astype(numpy.float64)
    server = Server(
        matrix(directory.name, "base", base),
        matrix(directory.name, "other", other),
        f"--data-dir={directory.name}",
        "--max-message-bytes=1048576",
    )


def tearDownModule():
    server.__exit__()
    directory.cleanup()


def connect(**options):
    return dotmax.Client(server.target, **{"max_message_bytes": 1 << 20, **options})


def draw(rows, dim=DIM, seed=1):
    return numpy.random.default_rng(seed).normal(size=(rows, dim)).astype(numpy.float32)


def exact(queries, rows, metric="inner_product"):
    score = METRICS[metric]
    wide = rows.astype(numpy.float64).tolist()
    return numpy.array([[score(q, row) for row in wide] for q in queries.astype(numpy.float64).tolist()])


def order(scores, metric="inner_product"):
    """Ids in order of score, ties by id."""
    return numpy.argsort(scores if metric == "squared_euclidean" else -scores, axis=-1, kind="stable")


class SearchTest(unittest.TestCase):
    def setUp(self):
        self.client = connect()
        self.addCleanup(self.client.close)

    def test_hits_are_those_of_exact_arithmetic(self):
        queries = draw(5)
        for metric in METRICS:
            result = self.client.search(queries, 7, collection="base", metric=metric)
            scores = exact(queries, base, metric)
            ids = order(scores, metric)[:, :7]
            numpy.testing.assert_array_equal(result.ids, ids)
            numpy.testing.assert_array_equal(result.scores, numpy.take_along_axis(scores, ids, 1))
            self.assertEqual((result.ids.dtype, result.scores.dtype), (numpy.uint64, numpy.float64))
            self.assertEqual(len(result), 5)
            numpy.testing.assert_array_equal(result[3][0], ids[3])
            numpy.testing.assert_array_equal(result[-1][0], ids[4])
            self.assertEqual(result.coverage, 1.0)
            self.assertGreater(result.version, 0)

    def test_one_vector_is_one_query(self):
        query = draw(1)
        one = self.client.search(query[0], 3, collection="base")
        numpy.testing.assert_array_equal(one.ids, self.client.search(query, 3, collection="base").ids)
        self.assertEqual(one.best, dotmax.Best(0, int(one.ids[0, 0]), float(one.scores[0, 0])))

    def test_global_hits_have_their_query_rows(self):
        queries = draw(9)
        result = self.client.search(queries, 4, collection="base", reduction="global")
        scores = exact(queries, base)
        flat = order(scores.ravel())[:4]
        numpy.testing.assert_array_equal(result.query_rows, flat // ROWS)
        numpy.testing.assert_array_equal(result.ids, flat % ROWS)
        numpy.testing.assert_array_equal(result.scores, scores.ravel()[flat])
        with self.assertRaises(TypeError):
            result[0]

    def test_cosine_of_a_row_and_itself_is_one(self):
        result = self.client.search(base[:3], 1, collection="base", metric="cosine")
        self.assertEqual(result.scores.tolist(), [[1.0]] * 3)
        self.assertEqual(result.ids.tolist(), [[0], [1], [2]])

    def test_ranges_fill_up_with_no_id_and_nan(self):
        queries = draw(6)
        scores = exact(queries, base)
        result = self.client.search(queries, 0, collection="base", min_score=14.0)
        sizes = (scores >= 14.0).sum(axis=1)
        self.assertGreater(sizes.max(), sizes.min())
        self.assertEqual(result.ids.shape, (6, sizes.max()))
        for i in range(6):
            numpy.testing.assert_array_equal(result[i][0], order(scores[i])[: sizes[i]])
            self.assertTrue(numpy.isnan(result.scores[i, sizes[i] :]).all())
            self.assertTrue((result.ids[i, sizes[i] :] == dotmax.NO_ID).all())
        self.assertEqual(result.truncated.tolist(), [False] * 6)
        counted = self.client.search(queries, collection="base", min_score=14.0, count_only=True)
        self.assertEqual(counted.counts.tolist(), sizes.tolist())

    def test_excluded_ids_are_no_hits(self):
        queries = base[:3]
        without = self.client.search(queries, 2, collection="base", exclude=[[0], [], numpy.array([2, 999])])
        with_all = self.client.search(queries, 3, collection="base")
        self.assertNotIn(0, without.ids[0])
        numpy.testing.assert_array_equal(without.ids[1], with_all.ids[1, :2])
        self.assertNotIn(2, without.ids[2])

    def test_no_queries_and_float64(self):
        self.assertEqual(self.client.search(numpy.empty((0, 8)), collection="other").ids.shape, (0, 0))
        rows = base[:2, :8].astype(numpy.float64)
        self.assertEqual(self.client.search(rows, collection="other", metric="cosine").ids.tolist(), [[0], [1]])

    def test_queries_beyond_a_message_go_in_parts(self):
        queries = numpy.tile(draw(50), (400, 1))  # 1.9 MB of floats; the limit is 1 MiB
        steps = []
        result = self.client.search(queries, 2, collection="base", progress=lambda *step: steps.append(step))
        self.assertGreater(len(steps), 1)
        self.assertEqual(steps[-1], (20000, 20000))
        once = self.client.search(queries[:50], 2, collection="base")
        numpy.testing.assert_array_equal(result.ids, numpy.tile(once.ids, (400, 1)))
        numpy.testing.assert_array_equal(result.scores, numpy.tile(once.scores, (400, 1)))
        self.assertEqual(result.best, once.best)
        excluded = self.client.search(queries, 1, collection="base", exclude=[[i % 7] for i in range(20000)])
        again = self.client.search(queries[:50], 1, collection="base", exclude=[[i % 7] for i in range(50)])
        numpy.testing.assert_array_equal(excluded.ids[:50], again.ids)
        for asked in (
            {"top_k": 5},
            {"top_k": 5, "metric": "squared_euclidean"},
            {"top_k": 0, "min_score": 22.0},
            {"count_only": True, "min_score": 20.0},
        ):
            parts = self.client.search(queries, collection="base", reduction="global", **asked)
            hits = self.client.search(queries[:50], collection="base", reduction="global", **asked)
            if "min_score" not in asked:
                # Each pair is there 400 times, and the first query row wins.
                self.assertEqual(parts.query_rows.tolist(), [int(hits.query_rows[0]) + 50 * i for i in range(5)])
                self.assertEqual(parts.ids.tolist(), [int(hits.ids[0])] * 5)
            elif asked.get("count_only"):
                self.assertEqual(parts.counts.tolist(), [400 * int(hits.counts[0])])
            else:
                self.assertEqual(len(parts), 400 * len(hits))
                self.assertEqual(sorted(parts.scores.tolist(), reverse=True), parts.scores.tolist())

    def test_rows_of_a_collection_as_queries(self):
        result = self.client.search_rows(1, of="base", collection="base", self_pairs="not_itself")
        scores = exact(base[:20], base)
        numpy.fill_diagonal(scores, -numpy.inf)
        numpy.testing.assert_array_equal(result.ids[:20, 0], order(scores)[:, 0])
        some = self.client.search_rows(1, of="base", first=10, rows=5, collection="base", self_pairs="not_itself")
        numpy.testing.assert_array_equal(some.ids, result.ids[10:15])
        pair = self.client.search_rows(collection="base", self_pairs="each_once", reduction="global").best
        self.assertLess(pair.query_row, pair.id)


class MatricesTest(unittest.TestCase):
    def setUp(self):
        self.client = connect()
        self.addCleanup(self.client.close)

    def test_max_of_two_matrices(self):
        a, b = draw(20, 5), draw(30, 5, seed=2)
        scores = exact(a, b)
        best = self.client.max(a, b).best
        self.assertEqual(best.score, scores.max())
        self.assertEqual((best.query_row, best.id), numpy.unravel_index(scores.argmax(), scores.shape))
        per_row = self.client.max(a, b, 2, reduction="per_row")
        numpy.testing.assert_array_equal(per_row.ids, order(scores)[:, :2])

    def test_a_base_beyond_a_message_is_streamed(self):
        a, b = draw(4, 64), draw(20000, 64, seed=2)  # 5 MB
        scores = a.astype("f8") @ b.T.astype("f8")
        steps = []
        result = self.client.max(a, b, 1, reduction="per_row", progress=lambda *step: steps.append(step))
        self.assertEqual(result.ids[:, 0].tolist(), scores.argmax(axis=1).tolist())
        self.assertGreater(len(steps), 2)
        self.assertEqual(steps[-1], (80000, 80000))
        best = self.client.max(b, a).best
        self.assertEqual((best.id, best.query_row), numpy.unravel_index(scores.argmax(), scores.shape))

    def test_every_dtype_gives_the_scores_of_its_numbers(self):
        b = numpy.arange(-12, 12, dtype=numpy.int8).reshape(6, 4)
        bits = numpy.array([[0x3F80, 0xC000, 0x4049, 0x0001]], numpy.uint16)
        wide = (bits.astype(numpy.uint32) << 16).view(numpy.float32)
        for a in (
            draw(3, 4).astype(numpy.float16),
            draw(3, 4).astype(numpy.float64),
            draw(3, 4).astype(">f4"),
            draw(4, 3).T,
            draw(3, 8)[:, ::2],
            b[:2],
            b[:2].astype(numpy.int64),
            b[:2].astype(numpy.uint8),
            [[1, 2, 3, 4]],
            [1.5, 2, 3, 4],
        ):
            a_rows = numpy.atleast_2d(numpy.asarray(a)).astype(numpy.float64)
            result = self.client.max(a, b, reduction="per_row")
            scores = numpy.array([[float(math.fsum(x * y for x, y in zip(q, row))) for row in b.tolist()] for q in a_rows.tolist()])
            numpy.testing.assert_array_equal(result.ids[:, 0], order(scores)[:, 0])
            if numpy.asarray(a).dtype.itemsize <= 4:  # products of float64 numbers are not float64 numbers
                numpy.testing.assert_array_equal(result.scores[:, 0], scores.max(axis=1))
        result = self.client.max(dotmax.bfloat16(bits), b)
        self.assertEqual(result.best.score, exact(wide, b).max())

    def test_pairs(self):
        pairs = [(draw(3, 2, seed=i), draw(i % 5, 2, seed=100 + i)) for i in range(40)]
        result = self.client.pairs(pairs)
        with_rows = [p for p, (_, b) in enumerate(pairs) if len(b)]
        self.assertEqual(result.pairs.tolist(), with_rows)
        for at, p in enumerate(with_rows):
            scores = exact(*pairs[p])
            self.assertEqual(result.scores[at], scores.max())
            self.assertEqual((result.query_rows[at], result.ids[at]), numpy.unravel_index(scores.argmax(), scores.shape))
        self.assertEqual(result.best.score, result.scores.max())
        self.assertEqual(result.best.pair, result.pairs[result.scores.argmax()])
        self.assertEqual(self.client.pairs([]).best, None)

    def test_pairs_of_several_messages_and_one_that_is_alone_larger(self):
        small = [(draw(60, 32, seed=i), draw(60, 32, seed=100 + i)) for i in range(150)]  # 2.3 MB
        large = (dotmax.bfloat16(numpy.full((1, 32), 0x3F80, numpy.uint16)), draw(20000, 32, seed=3))  # 2.6 MB
        for pairs in (small + [large], [large] + small, small[:70] + [large] + small[70:]):
            for metric in ("inner_product", "squared_euclidean"):
                result = self.client.pairs(pairs, metric=metric)
                self.assertEqual(result.pairs.tolist(), list(range(151)))
                at = result.scores.argmin() if metric == "squared_euclidean" else result.scores.argmax()
                self.assertEqual(result.best.pair, at)
                alone = self.client.max(*pairs[at], metric=metric).best
                self.assertEqual(
                    (result.scores[at], result.query_rows[at], result.ids[at]), (alone.score, alone.query_row, alone.id)
                )


class StreamTest(unittest.TestCase):
    def setUp(self):
        self.client = connect()
        self.addCleanup(self.client.close)

    def test_results_come_in_order_or_as_they_are_done(self):
        batches = [draw(1 + i % 3, seed=i) for i in range(200)]
        one_by_one = [self.client.search(batch, 2, collection="base").ids.tolist() for batch in batches]
        results = list(self.client.search_stream(iter(batches), 2, collection="base"))
        self.assertEqual([result.ids.tolist() for result in results], one_by_one)
        self.assertEqual([result.tag for result in results], list(range(200)))
        unordered = list(self.client.search_stream(batches, 2, collection="base", ordered=False))
        self.assertEqual({r.tag: r.ids.tolist() for r in unordered}, dict(enumerate(one_by_one)))

    def test_a_bad_batch_raises_or_is_told(self):
        bad = draw(1)
        bad[0, 3] = numpy.nan
        batches = [draw(1), bad, draw(2)]
        with self.assertRaises(dotmax.Error) as raised:
            list(self.client.search_stream(batches, collection="base"))
        self.assertEqual((raised.exception.reason, raised.exception.tag), ("NOT_FINITE", 1))
        errors = []
        results = list(self.client.search_stream(batches, collection="base", on_error=errors.append))
        self.assertEqual([result.tag for result in results], [0, 2])
        self.assertEqual([error.fields[0].field for error in errors], ["queries.data"])

    def test_what_goes_wrong_in_the_callers_batches_is_raised(self):
        def batches():
            yield draw(1)
            raise KeyError("mine")

        results = []
        with self.assertRaisesRegex(KeyError, "mine"):
            for result in self.client.search_stream(batches(), collection="base"):
                results.append(result.tag)
        self.assertEqual(results, [0])
        with self.assertRaisesRegex(TypeError, r"batches\[1\]"):
            list(self.client.search_stream([draw(1), ["text"]], collection="base"))

    def test_leaving_early_ends_the_call(self):
        for result in self.client.search_stream((draw(1) for _ in iter(int, 1)), collection="base"):
            if result.tag == 5:
                break
        self.assertEqual(len(self.client.search(draw(1), collection="base")), 1)


class FailureTest(unittest.TestCase):
    def refused(self, code, reason, call, *arguments, **options):
        with self.assertRaises(dotmax.Error) as raised:
            call(*arguments, **options)
        self.assertEqual((raised.exception.code.name, raised.exception.reason), (code, reason))
        return raised.exception

    def test_the_servers_word_is_in_the_error(self):
        with connect() as client:
            error = self.refused("INVALID_ARGUMENT", "DIM_MISMATCH", client.search, draw(1, 5), collection="base")
            self.assertEqual([v.field for v in error.fields], ["queries.dim"])
            self.assertIn("5", error.message)
            self.assertIn("24", str(error))
            self.refused("NOT_FOUND", "COLLECTION_NOT_FOUND", client.search, draw(1), collection="none")
            self.refused("FAILED_PRECONDITION", "VERSION_MISMATCH", client.search, draw(1), collection="base", version=99)
            self.refused("INVALID_ARGUMENT", "NOT_FINITE", client.max, [[math.inf]], [[1.0]])
            error = self.refused("DEADLINE_EXCEEDED", "", client.search, draw(1), collection="base", timeout=0.0)

    def test_arguments_that_cannot_be_are_named(self):
        with connect() as client:
            for named, call in {
                "queries: 3 dim": lambda: client.search(numpy.zeros((1, 2, 3))),
                "queries: cannot send complex128": lambda: client.search(numpy.zeros((1, 24), complex)),
                "b: cannot send <U1": lambda: client.max([[1.0]], [["a"]]),
                r"beyond 2\*\*53": lambda: client.search([[2**53 + 1]]),
                "metric: 'dot'": lambda: client.search(draw(1), metric="dot"),
                "reduction: 'all'": lambda: client.search(draw(1), reduction="all"),
                "top_k: -1": lambda: client.search(draw(1), -1),
                "exclude: 1 lists of ids for 2": lambda: client.search(draw(2), exclude=[[1]]),
                r"exclude\[0\]": lambda: client.search(draw(1), exclude=[[-1]]),
                r"pairs\[1\].base: 3 dim": lambda: client.pairs([([1.0], [1.0]), ([1.0], numpy.zeros((1, 1, 1)))]),
                "uint16, not on float32": lambda: dotmax.bfloat16(numpy.zeros(1, numpy.float32)),
            }.items():
                with self.assertRaisesRegex((TypeError, ValueError), named):
                    call()
        with self.assertRaisesRegex(ValueError, "max_message_bytes is 5"):
            dotmax.Client(max_message_bytes=5)
        with self.assertRaisesRegex(ValueError, "need each other"):
            dotmax.Client(tls=dotmax.Tls(certificate=b"x"))

    def test_a_server_that_is_away_is_unavailable_and_one_that_returns_is_found(self):
        with Server(matrix(directory.name, "base", base)) as other:
            port = other.port
        with dotmax.Client(f"127.0.0.1:{port}", timeout=20.0) as client:
            error = self.refused("UNAVAILABLE", "", client.search, draw(1))
            self.assertEqual(error.fields, [])
            with Server(matrix(directory.name, "base", base), f"--listen=127.0.0.1:{port}"):
                self.assertTrue(client.is_serving())
                self.assertEqual(len(client.search(draw(1))), 1)

    def test_a_call_that_is_refused_with_a_delay_is_tried_again(self):
        tokens = pathlib.Path(directory.name, "tokens")
        made = subprocess.run(
            [os.environ["DOTMAX_BINARY"], "token", "web", "--scopes=search", "--rate=2"],
            capture_output=True,
            text=True,
            check=True,
        )
        tokens.write_text(made.stderr)
        token = made.stdout.strip()
        with Server(matrix(directory.name, "base", base), f"--tokens-file={tokens}") as guarded:
            with dotmax.Client(guarded.target) as client:
                self.refused("UNAUTHENTICATED", "TOKEN_MISSING", client.search, draw(1))
                self.assertTrue(client.is_serving())
            with dotmax.Client(guarded.target, token=token) as client:
                self.refused("PERMISSION_DENIED", "SCOPE_MISSING", client.drop, "base")
                with self.assertRaises(dotmax.Error) as raised:
                    for _ in range(50):
                        client.search(draw(1))
                self.assertEqual(raised.exception.reason, "RATE_LIMITED")
                self.assertGreater(raised.exception.retry_delay, 0.0)
            with dotmax.Client(guarded.target, token=token, retries=3) as client:
                for _ in range(4):
                    client.search(draw(1))


class SeveralServersTest(unittest.TestCase):
    def test_servers_of_one_name_take_turns_and_one_that_goes_is_not_missed(self):
        flags = [matrix(directory.name, "first", base[:50]), matrix(directory.name, "second", -base[:50])]
        with Server(flags[1]) as second:
            with Server(flags[0]) as first:
                # An address each, as a name of DNS may have many.
                client = dotmax.Client(f"ipv4:{first.target},{second.target}")
                queries = draw(1)
                answers = {server: dotmax.Client(server.target).search(queries).scores[0, 0] for server in (first, second)}

                def ask():
                    return client.search(queries).scores[0, 0]

                got = [ask()]
                while len(set(got)) < 2:  # until both are connected
                    got.append(ask())
                got = [ask() for _ in range(40)]
                self.assertEqual({score: got.count(score) for score in set(got)}, dict.fromkeys(answers.values(), 20))
            self.assertEqual({ask() for _ in range(20)}, {answers[second]})
            client.close()


class CollectionsTest(unittest.TestCase):
    def test_what_is_resident_and_its_changes(self):
        with connect() as client:
            held = client.describe()
            self.assertEqual(
                [(c.name, c.rows, c.dim, c.dtype) for c in held.collections],
                [("base", ROWS, DIM, "float32"), ("other", 100, 8, "float64")],
            )
            self.assertEqual(held.max_message_bytes, 1 << 20)
            numpy.save(pathlib.Path(directory.name, "more.npy"), base[:5].astype(numpy.float16))
            loaded = client.load("more", "more.npy", progress=True)
            self.assertEqual((loaded.rows, loaded.dtype), (5, "float16"))
            self.assertGreater(client.reload("more").version, loaded.version)
            now = client.swap("more", "other")
            self.assertEqual((now[0].rows, now[1].rows), (100, 5))
            client.swap("more", "other")
            client.drop("more")
            with self.assertRaises(dotmax.Error) as raised:
                client.drop("more")
            self.assertEqual(raised.exception.reason, "COLLECTION_NOT_FOUND")
            with self.assertRaises(dotmax.Error) as raised:
                client.load("more", "../x.npy")
            self.assertEqual(raised.exception.reason, "PATH_NOT_ALLOWED")


class AsyncTest(unittest.IsolatedAsyncioTestCase):
    async def test_the_methods_awaited_give_the_same(self):
        queries = draw(3)
        a, b = draw(4, 64), draw(20000, 64, seed=2)
        with connect() as client:
            async with dotmax.aio.Client(server.target, max_message_bytes=1 << 20) as other:
                many = await asyncio.gather(*(other.search(queries, 2, collection="base") for _ in range(8)))
                for one in many:
                    numpy.testing.assert_array_equal(one.ids, client.search(queries, 2, collection="base").ids)
                self.assertEqual((await other.max(a, b)).best, client.max(a, b).best)
                pairs = [(a, b), (b[:7], a)]
                self.assertEqual((await other.pairs(pairs)).scores.tolist(), client.pairs(pairs).scores.tolist())
                once = await other.search_rows(collection="base", reduction="global", self_pairs="each_once")
                self.assertEqual(
                    once.best, client.search_rows(collection="base", reduction="global", self_pairs="each_once").best
                )
                self.assertEqual(await other.describe(), client.describe())
                self.assertTrue(await other.is_serving())
                numpy.save(pathlib.Path(directory.name, "aio.npy"), base[:5])
                self.assertEqual((await other.load("aio", "aio.npy")).rows, 5)
                self.assertEqual((await other.reload("aio")).rows, 5)
                await other.swap("aio", "other")
                await other.swap("aio", "other")
                self.assertIsNone(await other.drop("aio"))
                with self.assertRaises(dotmax.Error) as raised:
                    await other.search(draw(1, 5), collection="base")
                self.assertEqual(raised.exception.reason, "DIM_MISMATCH")

    async def test_streams(self):
        async def batches(count):
            for i in range(count):
                yield draw(1, seed=i)

        async with dotmax.aio.Client(server.target) as client:
            results = [r async for r in client.search_stream(batches(100), 2, collection="base")]
            self.assertEqual([r.tag for r in results], list(range(100)))
            again = [r async for r in client.search_stream([draw(1, seed=i) for i in range(9)], 2, collection="base")]
            self.assertEqual([r.ids.tolist() for r in again], [r.ids.tolist() for r in results[:9]])
            errors = []
            bad = [draw(1), draw(1, 3), draw(1)]
            results = [r.tag async for r in client.search_stream(bad, collection="base", on_error=errors.append)]
            self.assertEqual((results, errors[0].reason, errors[0].tag), ([0, 2], "DIM_MISMATCH", 1))
            with self.assertRaises(dotmax.Error):
                [r async for r in client.search_stream(bad, collection="base")]
            with self.assertRaisesRegex(TypeError, r"batches\[0\]"):
                [r async for r in client.search_stream([["text"]], collection="base")]
            with self.assertRaises(dotmax.Error):
                [r async for r in client.search_stream([draw(1)], collection="none")]

    async def test_a_cancelled_task_ends(self):
        async with dotmax.aio.Client(server.target) as client:
            task = asyncio.ensure_future(client.search(draw(2000), 100, collection="base"))
            await asyncio.sleep(0.001)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task


class TlsTest(unittest.TestCase):
    def test_certificates_of_both_sides(self):
        made = pathlib.Path(directory.name, "tls")
        made.mkdir()

        def openssl(*words):
            subprocess.run(["openssl", *words], cwd=made, check=True, capture_output=True)

        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test ca", "-days", "2")
        for name in ("localhost", "client"):
            openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
            (made / "names").write_text(f"subjectAltName=DNS:{name}\n")
            openssl(
                *f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial".split(),
                *f"-out {name}.pem -days 2 -extfile names".split(),
            )
        with Server(
            matrix(directory.name, "base", base),
            f"--tls-cert={made}/localhost.pem",
            f"--tls-key={made}/localhost.key",
            f"--tls-client-ca={made}/ca.pem",
        ) as secure:
            ours = dotmax.Tls(
                ca=made / "ca.pem",
                certificate=(made / "client.pem").read_bytes(),
                key=str(made / "client.key"),
                server_name="localhost",
            )
            with dotmax.Client(secure.target, tls=ours) as client:
                self.assertEqual(client.search(base[:1]).ids.tolist(), [[int(exact(base[:1], base).argmax())]])
            for refused in (dotmax.Tls(ca=made / "ca.pem", server_name="localhost"), True, False):
                with dotmax.Client(secure.target, tls=refused, timeout=10.0) as client:
                    with self.assertRaises(dotmax.Error) as raised:
                        client.search(base[:1])
                    self.assertEqual(raised.exception.code, grpc.StatusCode.UNAVAILABLE)


class WireTest(unittest.TestCase):
    def test_pieces_are_the_message_that_protobuf_makes(self):
        for rows in (numpy.empty((0, 3), "f4"), numpy.empty((3, 0), "f4"), draw(1, 1), draw(300, 50)):
            wire = _arrays.wire_rows(rows, "rows")
            pieces = _arrays.Message.of(dotmax_pb2.SearchRequest(top_k=3))
            pieces = pieces.plus(
                dotmax_pb2.SearchRequest.QUERIES_FIELD_NUMBER, _arrays.Message.of_rows(wire, 0, len(rows))
            )
            whole = dotmax_pb2.SearchRequest(top_k=3)
            whole.queries.CopyFrom(
                matrix_pb2.Matrix(rows=len(rows), dim=rows.shape[1], dtype=matrix_pb2.FLOAT32, data=rows.tobytes())
            )
            self.assertEqual(dotmax_pb2.SearchRequest.FromString(pieces.serialize()), whole)
            self.assertEqual(pieces.size, len(pieces.serialize()))

    def test_rows_are_not_copied_before_they_are_sent(self):
        rows = draw(10)
        self.assertTrue(numpy.shares_memory(numpy.frombuffer(_arrays.wire_rows(rows, "rows").block(2, 3), "f4"), rows))


if __name__ == "__main__":
    unittest.main()
