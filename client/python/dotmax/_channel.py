"""What both clients do around a call: the channel, deadlines, progress."""

from __future__ import annotations

import functools
import pathlib
import time
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

import grpc

from dotmax import _questions
from dotmax._arrays import Message
from dotmax.errors import Error

Pem = Union[str, pathlib.Path, bytes]
ProgressOption = Union[bool, Callable[[int, int], None]]


@dataclass(frozen=True)
class Tls:
    """PEM files by path, or their bytes.

    ca           the certificates that may have signed the server's; None: the system's
    certificate  and `key`: what the client shows to servers that ask for it
    server_name  that the server's certificate must bear; None: the target's
    """

    ca: Optional[Pem] = None
    certificate: Optional[Pem] = None
    key: Optional[Pem] = None
    server_name: Optional[str] = None


def _read(pem: Optional[Pem]) -> Optional[bytes]:
    return pem if pem is None or isinstance(pem, bytes) else pathlib.Path(pem).read_bytes()


class Deadline:
    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return max(self._end - time.monotonic(), 0.0)

    def for_call(self) -> float:
        """What is left; raises Error when that is nothing, which gRPC does not notice while an answer comes at once."""
        seconds = self.left()
        if seconds == 0.0:
            raise Error(grpc.StatusCode.DEADLINE_EXCEEDED, "the timeout has passed before the call")
        return seconds


class Bar:
    """Progress as the caller wants it: a function, or with True a bar of tqdm where that is installed."""

    def __init__(self, option: ProgressOption, unit: str):
        self._bar: Any = None
        self.tell: Callable[[int, int], None] = lambda done, total: None
        if callable(option):
            self.tell = option
        elif option:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(unit=unit, unit_scale=True)
            self.tell = self._move

    def _move(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Connection:
    """A channel and what every call goes with: what the blocking and the asyncio client have in common."""

    _grpc: Any  # grpc or grpc.aio

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        timeout: float = 60.0,
        tls: Union[Tls, bool] = False,
        token: Optional[str] = None,
        max_message_bytes: int = 64 << 20,
        retries: int = 0,
    ):
        self._timeout = timeout
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._max_message_bytes = max_message_bytes
        self._retries = retries
        self._channel = self._open(target, tls)
        self._stub = functools.lru_cache(None)(self._make_stub)

    def _open(self, target: str, tls: Union[Tls, bool]) -> Any:
        files = tls if isinstance(tls, Tls) else Tls()
        options = _questions.channel_options(self._max_message_bytes, files.server_name)
        if not tls:
            return self._grpc.insecure_channel(target, options=options)
        if (files.certificate is None) != (files.key is None):
            raise ValueError("tls: a client's certificate and its key need each other")
        credentials = grpc.ssl_channel_credentials(_read(files.ca), _read(files.key), _read(files.certificate))
        return self._grpc.secure_channel(target, credentials, options=options)

    def _make_stub(self, method: _questions.Method) -> Any:
        kind = ("unary_", "stream_")[method.client_streams] + ("unary", "stream")[method.server_streams]
        return getattr(self._channel, kind)(
            method.path, request_serializer=Message.serialize, response_deserializer=method.response.FromString
        )

    @staticmethod
    def _delay(error: Error, final: bool, deadline: Deadline) -> float:
        """How long to wait before the call is tried again; raises the error where it is not."""
        if final or error.retry_delay is None or error.retry_delay >= deadline.left():
            raise error
        return error.retry_delay
