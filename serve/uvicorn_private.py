"""Names of uvicorn 0.54 that this service uses and uvicorn does not promise, each with the reason.

`tests/serve/test_private_names.py` fails with the name of each one that an upgrade of uvicorn removes.
"""

from __future__ import annotations

from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

VERSION = "0.54"
__all__ = ["PROTOCOL_MEMBERS", "VERSION", "HttpToolsProtocol", "use_protocol"]
PROTOCOL_MEMBERS = (
    "_should_upgrade",
    "_unset_keepalive_if_required",
    "connection_lost",
    "connection_made",
    "cycle",
    "data_received",
    "headers",
    "logger",
    "loop",
    "on_header",
    "on_headers_complete",
    "on_message_begin",
    "on_url",
    "parser",
    "pause_writing",
    "resume_writing",
    "scope",
    "send_400_response",
    "timeout_keep_alive_handler",
    "transport",
    "url",
)
"""Members of HttpToolsProtocol that `serve.http.timeouts.TimedProtocol` reads or overrides: uvicorn has no setting for
the time of a request's head or of a client that does not read."""


def use_protocol(import_path: str) -> None:
    """Make a class the HTTP protocol of this process's later uvicorn servers. Ray Serve passes no `http` argument."""
    config.HTTP_PROTOCOLS["auto"] = import_path
