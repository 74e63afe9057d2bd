#!/usr/bin/python3
"""What people would serve where there is no dotmax, for service.py: grpcio in front of FAISS's IndexFlatIP, each
request searched by itself, in the words of dotmax's protocol. Float32, inner products, the best rows of each query row.

  plain_server.py MATRIX.npy THREADS       {"event": "listening", "grpc_port": 50051, ...} on standard error

Requests are handled by THREADS threads, which run side by side while FAISS searches.
"""

import concurrent.futures
import json
import pathlib
import signal
import sys
import tempfile

import machine  # first: see there

import faiss
import grpc
import numpy

sys.path.append(str(machine.ROOT / "tests"))
import fsum_check  # noqa: E402


class Service:
    def __init__(self, name, base, directory):
        self.search_protocol, self.matrix_protocol = fsum_check.generated(directory)
        from dotmax.v1 import collections_pb2

        self.collections_protocol = collections_pb2
        self.name = name
        self.index = faiss.IndexFlatIP(base.shape[1])
        self.index.add(base)

    def search(self, request, _):
        queries = numpy.frombuffer(request.queries.data, numpy.float32).reshape(request.queries.rows, -1)
        top_k = max(request.top_k, 1)
        scores, ids = self.index.search(queries, top_k)
        return self.search_protocol.SearchResponse(
            row_splits=range(0, ids.size + 1, top_k),
            ids=ids.ravel().tolist(),
            scores=scores.ravel().tolist(),
            coverage=1,
        )

    def list_collections(self, _request, _context):
        protocol = self.collections_protocol
        held = protocol.Collection(name=self.name, rows=self.index.ntotal, dim=self.index.d, screen="none")
        return protocol.ListCollectionsResponse(collections=[held])

    def handlers(self):
        def handler(service, method, run, request, response):
            unary = grpc.unary_unary_rpc_method_handler(run, request.FromString, response.SerializeToString)
            return grpc.method_handlers_generic_handler(f"dotmax.v1.{service}", {method: unary})

        search, collections = self.search_protocol, self.collections_protocol
        return [
            handler("Dotmax", "Search", self.search, search.SearchRequest, search.SearchResponse),
            handler(
                "Collections",
                "ListCollections",
                self.list_collections,
                collections.ListCollectionsRequest,
                collections.ListCollectionsResponse,
            ),
        ]


def main():
    path, threads = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    faiss.omp_set_num_threads(1)  # the requests are what is parallel
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(threads))
    with tempfile.TemporaryDirectory() as directory:
        server.add_generic_rpc_handlers(Service(path.stem, numpy.load(path), directory).handlers())
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    versions = {"FAISS": faiss.__version__, "grpcio": grpc.__version__}
    for event in {"event": "listening", "grpc_port": port, "versions": versions}, {"event": "ready"}:
        print(json.dumps(event), file=sys.stderr, flush=True)
    signal.sigwait([signal.SIGTERM])
    server.stop(0).wait()
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    sys.exit(main())
