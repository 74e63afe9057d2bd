"""google.rpc.Status and error details: of googleapis-common-protos where that is installed, our copy otherwise.

One process can have them only once, under their names.
"""

try:
    from google.rpc import error_details_pb2, status_pb2
except ImportError:
    from dotmax._google_rpc import _error_details_pb2 as error_details_pb2
    from dotmax._google_rpc import _status_pb2 as status_pb2

__all__ = ["error_details_pb2", "status_pb2"]
