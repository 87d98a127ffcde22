"""Serves a page of gates on this machine alone."""

from __future__ import annotations

import errno
import json
import re
import secrets
import sys
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gatewise.errors import GatewiseError, OptionError
from gatewise.gates.live import LivePage, decoded

_LOOPBACK = "127.0.0.1"
_MOST_BYTES = 1 << 20  # of a request's body
_MOST_ANSWERED = 8 << 20  # bytes of one piece of the numbers
_SECONDS = 60  # until a connection that says nothing is closed
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class PageServer(ThreadingHTTPServer):
    """A server of one page. Only who knows its address, which has a random token, gets an answer.

    Use it as a context manager, so that its socket is closed.

    Attributes:
        url: the page's address.

    Raises:
        OptionError: the port is in use, or may not be opened.
    """

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser may close a connection at any time."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def __init__(self, page: LivePage, port: int = 0) -> None:
        self.page = page
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((_LOOPBACK, port), _Handler)
        except OSError as error:
            why = {errno.EADDRINUSE: "is in use", errno.EACCES: "may not be opened"}
            raise OptionError(
                f"the port {port} {why.get(error.errno or 0, f'cannot be opened ({error})')}: give another one, or "
                f"port=0 for any that is free"
            ) from error
        self.hosts = {f"{_LOOPBACK}:{self.server_port}", f"localhost:{self.server_port}"}
        self.url = f"http://{_LOOPBACK}:{self.server_port}/{self.token}/"


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "gatewise"
    sys_version = ""
    timeout = _SECONDS
    server: PageServer

    def do_GET(self) -> None:
        self._answered({"": self._page, "numbers": self._numbers})

    def do_POST(self) -> None:
        self._answered({"edit": self._edit})

    def _answered(self, places: dict[str, Callable[[], None]]) -> None:
        try:
            self._check_sender()
            place = self._place()
            if place not in places:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "there is nothing here")
            places[place]()
        except _RefusedError as refused:
            self.close_connection = True  # the body of the request may not have been read
            self._refuse(refused.status, str(refused))
        except GatewiseError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))

    def _check_sender(self) -> None:
        """A page of another site must not reach this server, under a name of its own (Host) or from itself
        (Origin)."""
        if self.headers.get("Host") not in self.server.hosts:
            raise _RefusedError(
                HTTPStatus.MISDIRECTED_REQUEST, "this is not the host that was asked for"
            )
        origin = self.headers.get("Origin")
        needed = self.command == "POST"
        if (needed or origin is not None) and origin != f"http://{self.headers['Host']}":
            raise _RefusedError(HTTPStatus.FORBIDDEN, "only the page itself may ask")

    def _place(self) -> str:
        _, token, *rest = [*self.path.split("/", 2), ""]
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise _RefusedError(
                HTTPStatus.FORBIDDEN, "open the address that was printed, with its token"
            )
        return rest[0]

    def _page(self) -> None:
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page.html.encode())

    def _numbers(self) -> None:
        numbers = self.server.page.numbers
        asked = re.fullmatch(r"bytes=(\d{1,18})-(\d{1,18})", self.headers.get("Range", ""))
        first, last = map(int, asked.groups()) if asked else (0, -1)
        if not first <= last < min(len(numbers), first + _MOST_ANSWERED):
            raise _RefusedError(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                f"ask for a range of at most {_MOST_ANSWERED} of the {len(numbers)} bytes",
            )
        content = {"Content-Range": f"bytes {first}-{last}/{len(numbers)}"}
        part = numbers[first : last + 1]
        self._send(HTTPStatus.PARTIAL_CONTENT, "application/octet-stream", part, content)

    def _edit(self) -> None:
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "an edit is application/json")
        size = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,9}", size) or int(size) > _MOST_BYTES:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"an edit has at most {_MOST_BYTES} bytes"
            )
        answer = self.server.page.answer(decoded(self.rfile.read(int(size))))
        self._send(HTTPStatus.OK, "application/octet-stream", answer)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send(status, "application/json", json.dumps({"error": why}).encode())

    def _send(
        self,
        status: HTTPStatus,
        kind: str,
        body: bytes | memoryview,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (_HEADERS | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed: their addresses have the token."""


def serve(page: LivePage, *, port: int = 0, browser: bool = True) -> None:
    """Prints the page's address, and serves the page until it is interrupted (Ctrl-C).

    Args:
        port: of this machine; 0 is any that is free.
        browser: whether the page is opened in the browser.
    """
    with PageServer(page, port) as server:
        print(server.url, flush=True)  # a pipe too gets it at once
        if browser:
            webbrowser.open(server.url)
        server.serve_forever()
