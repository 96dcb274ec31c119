"""How the loopback hub answers over HTTP: parsing, redirects, ranges, error headers and faults."""

import json
import os
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import hub_files
from hub_files import HubError

if TYPE_CHECKING:
    from hub import LoopbackHub

_ACTIONS = ("revision", "tree", "paths-info", "refs", "resolve")


@dataclass(frozen=True)
class Request:
    """One answered request.

    Attributes:
        path: unquoted and without its query.
        range: the header that asked for a part.
        cdn: whether it came to the CDN.
    """

    method: str
    path: str
    range: str | None
    status: int
    cdn: bool


@dataclass(frozen=True)
class Fault:
    """What goes wrong with an answer.

    Attributes:
        times: how many answers it spoils before they are as they should be; None for all.
        delay: seconds before the answer begins.
        status: an error to answer instead.
        cut_after: bytes of the body after which the connection closes, whatever length was promised.
        stall: seconds that pass between those bytes and the close.
        reset: the connection breaks (RST), after `cut_after` bytes or before the answer, instead of closing.
    """

    times: int | None = None
    delay: float = 0
    status: HTTPStatus | None = None
    cut_after: int | None = None
    stall: float = 0
    reset: bool = False


class Server(ThreadingHTTPServer):
    """Says nothing of clients that go away in the middle of an answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def handler(hub: "LoopbackHub", *, cdn: bool) -> type[BaseHTTPRequestHandler]:
    """The request handler of one hub or its CDN: it asks the hub and writes; `http.server` makes one a connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        fault: Fault | None

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            """Silent: `hub.requests` has it."""

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            address = urlsplit(self.path)
            self.fault = hub.take_fault(self.command, unquote(address.path))
            if self.fault is not None:
                hub.closing.wait(self.fault.delay)
                if self.fault.reset and self.fault.cut_after is None:
                    self._record(0)
                    self._break_off()
                    return
            # A quoted slash stays within its segment: `refs%2Fpr%2F1` is one revision.
            segments = [unquote(segment) for segment in address.path.strip("/").split("/")]
            try:
                if self.fault is not None and self.fault.status is not None:
                    raise HubError(self.fault.status, None, self.fault.status.phrase)
                if cdn:
                    self._send_from_cdn(segments, parse_qs(address.query))
                elif segments[0] == "api":
                    self._send_json(self._api(segments[1:], parse_qs(address.query), body))
                else:
                    self._resolve(segments)
            except HubError as error:
                headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
                self._send_json({"error": str(error)}, error.status, headers)
            except _MovedError as moved:
                self._send(HTTPStatus.TEMPORARY_REDIRECT, {"Location": moved.location}, b"")

        def _enter(self, kind: str, segments: list[str], *, content: bool) -> tuple[str, str | None, list[str]]:
            name, action, arguments = _split(segments)
            if name in hub.renamed:
                raise _MovedError(self.path.replace(name, hub.renamed[name], 1))
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            hub.admit(kind, name, token if scheme == "Bearer" else None, content=content)
            return name, action, arguments

        def _api(self, segments: list[str], query: dict[str, list[str]], body: bytes) -> Any:
            kind, *rest = segments
            name, action, arguments = self._enter(kind, rest, content=False)
            if action == "refs":
                return hub.references(kind, name, pull_requests=_is_true(query, "include_prs"))
            revision, *path = arguments or ["main"]
            if action in (None, "revision"):
                return hub.describe(kind, name, revision, blobs=_is_true(query, "blobs"))
            entries = hub_files.entries(hub.find(kind, name, revision)[0])
            if action == "paths-info":
                form = _form(body, self.headers.get("Content-Type", ""))
                asked = {path.rstrip("/") for path in form.get("paths", [])}
                return [entry for entry in entries if entry["path"] in asked]
            return hub_files.tree(entries, "/".join(path), recursive=_is_true(query, "recursive"))

        def _resolve(self, segments: list[str]) -> None:
            kind = "datasets" if segments[0] == "datasets" else "models"
            name, action, arguments = self._enter(kind, segments[kind == "datasets" :], content=True)
            if action != "resolve" or len(arguments) < 2:
                raise HubError(HTTPStatus.NOT_FOUND, None, f"Nothing at {self.path}")
            folder, commit = hub.find(kind, name, arguments[0])
            file_name = "/".join(arguments[1:])
            try:
                path = hub_files.find_file(folder, file_name)
            except HubError as error:
                headers = {"X-Error-Code": str(error.code), "X-Error-Message": str(error), "X-Repo-Commit": commit}
                self._send_json({"error": str(error)}, error.status, headers)
                return
            headers = {"ETag": f'"{hub_files.blob_id(path)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            if not hub_files.is_large(path):
                self._send_part(path, headers)
                return
            prefix = "/datasets" if kind == "datasets" else ""
            headers["X-Linked-ETag"] = f'"{hub_files.sha256(path)}"'
            headers["X-Linked-Size"] = str(path.stat().st_size)
            headers["Location"] = (
                f"{hub.cdn_url}{prefix}/{quote(name)}/resolve/{commit}/{quote(file_name)}?Signature={hub.signature}"
            )
            self._send(HTTPStatus.FOUND, headers, b"Found. Redirecting")

        def _send_from_cdn(self, segments: list[str], query: dict[str, list[str]]) -> None:
            # As S3: a signature is the one way to be let in, and a token beside it is an error.
            if self.headers.get("Authorization") is not None:
                raise HubError(HTTPStatus.BAD_REQUEST, None, "Only one auth mechanism allowed")
            if query.get("Signature") != [hub.signature]:
                raise HubError(HTTPStatus.FORBIDDEN, None, "Access denied")
            kind = "datasets" if segments[0] == "datasets" else "models"
            name, _, (commit, *file_name) = _split(segments[kind == "datasets" :])
            path = hub_files.find_file(hub.find(kind, name, commit)[0], "/".join(file_name))
            self._send_part(path, {"ETag": f'"{hub_files.sha256(path)[:32]}"', "Accept-Ranges": "bytes"})

        def _send_part(self, path: Any, headers: Mapping[str, str]) -> None:
            content = path.read_bytes()
            part = hub_files.requested_range(self.headers.get("Range"), len(content))
            whole = {**headers, "Content-Type": "application/octet-stream"}
            if part is None:
                self._send(HTTPStatus.OK, whole, content)
            elif part:
                where = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
                self._send(
                    HTTPStatus.PARTIAL_CONTENT, {**whole, "Content-Range": where}, content[part.start : part.stop]
                )
            else:
                where = f"bytes */{len(content)}"
                self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {**whole, "Content-Range": where}, b"")

        def _send_json(
            self, answer: Any, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
        ) -> None:
            self._send(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(answer).encode())

        def _send(self, status: HTTPStatus, headers: Mapping[str, str], content: bytes) -> None:
            self._record(status)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            fault = self.fault or Fault()
            self.wfile.write(content[: fault.cut_after])
            if fault.cut_after is not None and fault.cut_after < len(content):
                self.wfile.flush()
                hub.closing.wait(fault.stall)
                self.close_connection = True
                if fault.reset:
                    self._break_off()

        def _record(self, status: int) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(Request(self.command, path, self.headers.get("Range"), int(status), cdn))

        def _break_off(self) -> None:
            """Close the connection with RST: not with the FIN that `http.server` would send."""
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    return Handler


class _MovedError(Exception):
    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


def _split(segments: list[str]) -> tuple[str, str | None, list[str]]:
    """`org/name/tree/main/a` -> ("org/name", "tree", ["main", "a"]); the organisation may be missing."""
    for length in (1, 2):
        if len(segments) > length and segments[length] in _ACTIONS:
            return "/".join(segments[:length]), segments[length], segments[length + 1 :]
    return "/".join(segments), None, []


def _is_true(query: Mapping[str, list[str]], name: str) -> bool:
    return query.get(name, ["false"])[0].lower() in ("true", "1")


def _form(body: bytes, content_type: str) -> dict[str, list[str]]:
    return json.loads(body) if content_type.startswith("application/json") else parse_qs(body.decode())
