"""What a server refuses, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional

import grpc

from dotmax._google_rpc import error_details_pb2, status_pb2


@dataclass(frozen=True)
class FieldViolation:
    """What is wrong with a field of a request: `field` as in "queries.data"."""

    field: str
    description: str


class Error(Exception):
    """A call that failed.

    code         grpc.StatusCode
    message      what happened, with the values that matter
    reason       a word for programs, as "DIM_MISMATCH"; empty if the server gave none
    fields       for INVALID_ARGUMENT, which fields are wrong
    retry_delay  seconds after which the same call may succeed, where the server says so
    tag          of search_stream: the number of the batch
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        fields: Optional[List[FieldViolation]] = None,
        retry_delay: Optional[float] = None,
    ):
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.fields = fields or []
        self.retry_delay = retry_delay
        self.tag = 0


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def from_status(status: Any) -> Error:
    """The error that a google.rpc.Status is."""
    error = Error(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message)
    info, request, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            error.reason = info.reason
        elif detail.Unpack(request):
            error.fields = [FieldViolation(f.field, f.description) for f in request.field_violations]
        elif detail.Unpack(retry):
            error.retry_delay = retry.retry_delay.ToTimedelta().total_seconds()
    return error


def from_rpc(failure: Any) -> Error:
    """The error that a failed call is: a grpc.RpcError."""
    status = status_pb2.Status()
    for key, value in failure.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    status.code = failure.code().value[0]
    status.message = failure.details() or ""
    return from_status(status)
