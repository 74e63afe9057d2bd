"""What both clients do around a call: credentials, deadlines, progress."""

from __future__ import annotations

import pathlib
import time
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Tuple, Union

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


def open_channel(grpc_module: Any, target: str, tls: Union[Tls, bool], max_message_bytes: int) -> Any:
    """A channel of grpc or of grpc.aio."""
    files = tls if isinstance(tls, Tls) else Tls()
    options = _questions.channel_options(max_message_bytes, files.server_name)
    if not tls:
        return grpc_module.insecure_channel(target, options=options)
    if (files.certificate is None) != (files.key is None):
        raise ValueError("tls: a client's certificate and its key need each other")
    credentials = grpc.ssl_channel_credentials(_read(files.ca), _read(files.key), _read(files.certificate))
    return grpc_module.secure_channel(target, credentials, options=options)


def metadata(token: Optional[str]) -> List[Tuple[str, str]]:
    return [("authorization", f"Bearer {token}")] if token else []


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


def stub(channel: Any, method: _questions.Method) -> Any:
    kind = ("unary_", "stream_")[method.client_streams] + ("unary", "stream")[method.server_streams]
    return getattr(channel, kind)(
        method.path, request_serializer=Message.serialize, response_deserializer=method.response.FromString
    )


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
