"""Real servers for tests: the program that DOTMAX_SERVER_BINARY names."""

import os
import pathlib
import sys

import numpy

SOURCE = pathlib.Path(__file__).resolve().parents[3]
sys.path.append(str(SOURCE / "tests"))
import fsum_check  # noqa: E402


class Server:
    """A server on free ports, as a context manager."""

    def __init__(self, *flags):
        program = os.environ["DOTMAX_SERVER_BINARY"]
        self.process, self.port = fsum_check.start(program, None, "--threads=1", *flags)
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
