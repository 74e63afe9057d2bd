"""Real servers for tests: the program that DOTMAX_SERVER_BINARY names."""

import json
import os
import pathlib
import subprocess

import numpy

SOURCE = pathlib.Path(__file__).resolve().parents[3]


class Server:
    """A server on free ports, as a context manager."""

    def __init__(self, *flags):
        self.process = subprocess.Popen(
            [os.environ["DOTMAX_SERVER_BINARY"], "--listen=127.0.0.1:0", "--metrics-listen=", "--threads=1", *flags],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = 0
        for line in self.process.stderr:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "listening":
                self.port = event["grpc_port"]
            if event.get("event") == "ready":
                break
        else:
            raise AssertionError("the server does not start")
        self.target = f"127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.stderr.close()
        if self.process.wait(timeout=60) != 0:
            raise AssertionError(f"the server exits with {self.process.returncode}")


def matrix(directory, name, values):
    """Saves `values` as NAME.npy; the flag that serves it."""
    path = pathlib.Path(directory, f"{name}.npy")
    numpy.save(path, values)
    return f"--matrix={name}={path}"
