"""A Hugging Face hub on loopback: the hub's read API over local folders, for tests that download.

    with LoopbackHub(models={"org/name": folder}, datasets={"org/data": {"main": folder, "v2": other}}) as hub:
        subprocess.run(command, env=hub.environment(tmp_path / "home"))

huggingface_hub reads `HF_ENDPOINT` when it is imported, so what downloads must be another process.

| request | answer |
|---|---|
| `GET /api/{models,datasets}/{id}[/revision/{rev}]` | what the repository is: its commit and files |
| `GET /api/.../{id}/tree/{rev}[/{folder}][?recursive=true]` | the entries of a folder |
| `POST /api/.../{id}/paths-info/{rev}` with `paths` | the entries of those paths that exist |
| `GET /api/.../{id}/refs` | the branches |
| `GET, HEAD /[datasets/]{id}/resolve/{rev}/{file}` | the file, with `ETag`, `X-Repo-Commit` and ranges |

What isn't there is a 404 with the hub's `X-Error-Code`: RepoNotFound, RevisionNotFound or EntryNotFound.
A revision is `main`, another name given for a folder, or a commit: the SHA-1 of that folder's content.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import parse_qs, unquote, urlsplit

Folders = Path | Mapping[str, Path]
"""The folder of `main`, or a folder for each revision: a branch, a tag, `refs/pr/1` or a commit of 40 hex digits."""

_ACTIONS = ("revision", "tree", "paths-info", "refs", "resolve")
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Request:
    """One answered request; `path` is unquoted and without its query, `range` the header that asked for a part."""

    method: str
    path: str
    range: str | None
    status: int


class NotOnHubError(Exception):
    """A 404; `code` is the hub's `X-Error-Code`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LoopbackHub:
    """Serves models and datasets, `id -> Folders`, while the `with` block runs. Folders may change meanwhile."""

    def __init__(
        self, models: Mapping[str, Folders] | None = None, datasets: Mapping[str, Folders] | None = None
    ) -> None:
        self.repositories = {
            kind: {
                name: dict(folders) if isinstance(folders, Mapping) else {"main": folders} for name, folders in given
            }
            for kind, given in (("models", (models or {}).items()), ("datasets", (datasets or {}).items()))
        }
        self.requests: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, home: Path, **variables: str) -> dict[str, str]:
        """The variables of a process that downloads from here and caches in `home` (`HF_HOME`), and `variables`.

        What this process has set about the hub, its caches, tokens and proxies is left out.
        """
        kept = {name: value for name, value in os.environ.items() if not _is_about_the_hub(name)}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
            **variables,
        }

    def downloads(self) -> list[str]:
        """The paths of the files that were sent, in order."""
        return [
            request.path
            for request in self.requests
            if request.method == "GET" and "/resolve/" in request.path and request.status in (200, 206)
        ]

    def commit(self, kind: str, name: str, revision: str = "main") -> str:
        """The commit of a revision; `kind` is "models" or "datasets". Raises NotOnHubError."""
        return self.find(kind, name, revision)[1]

    def find(self, kind: str, name: str, revision: str) -> tuple[Path, str]:
        """The folder and commit of a revision. Raises NotOnHubError."""
        for known, folder in self._revisions(kind, name).items():
            commit = known if _COMMIT.fullmatch(known) else _commit(folder)
            if revision in (known, commit):
                return folder, commit
        raise NotOnHubError("RevisionNotFound", f"Invalid rev id: {revision}")

    def describe(self, kind: str, name: str, revision: str) -> dict[str, Any]:
        """What `/api/{kind}/{name}` answers."""
        folder, commit = self.find(kind, name, revision)
        return {
            "_id": hashlib.sha1(name.encode()).hexdigest()[:24],
            "id": name,
            **({"modelId": name} if kind == "models" else {}),
            "sha": commit,
            "lastModified": "2024-02-28T00:00:00.000Z",
            "createdAt": "2024-02-28T00:00:00.000Z",
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": entry["path"]} for entry in _entries(folder) if entry["type"] == "file"],
        }

    def references(self, kind: str, name: str) -> dict[str, Any]:
        """What `/api/{kind}/{name}/refs` answers: every name that isn't a commit is a branch."""
        names = [known for known in self._revisions(kind, name) if not _COMMIT.fullmatch(known)]
        branches = [
            {"name": known, "ref": f"refs/heads/{known}", "targetCommit": self.commit(kind, name, known)}
            for known in names
        ]
        return {"branches": branches, "converts": [], "tags": []}

    def _revisions(self, kind: str, name: str) -> dict[str, Path]:
        if name not in self.repositories.get(kind, {}):
            raise NotOnHubError("RepoNotFound", "Repository not found")
        return self.repositories[kind][name]


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    """The request handler of one hub: it parses, asks the hub and writes; `http.server` makes one a connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

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
            # A quoted slash stays within its segment: `refs%2Fpr%2F1` is one revision.
            segments = [unquote(segment) for segment in address.path.strip("/").split("/")]
            try:
                if segments[0] == "api":
                    self._send_json(self._api(segments[1:], parse_qs(address.query), body))
                else:
                    self._send_file(segments)
            except NotOnHubError as error:
                self._send_json(
                    {"error": str(error)},
                    HTTPStatus.NOT_FOUND,
                    {"X-Error-Code": error.code, "X-Error-Message": str(error)},
                )

        def _api(self, segments: list[str], query: dict[str, list[str]], body: bytes) -> Any:
            kind, *rest = segments
            name, action, arguments = _split(rest)
            if action is None:
                return hub.describe(kind, name, "main")
            if action == "refs":
                return hub.references(kind, name)
            revision, *path = arguments or ["main"]
            if action == "revision":
                return hub.describe(kind, name, revision)
            entries = _entries(hub.find(kind, name, revision)[0])
            if action == "paths-info":
                asked = {
                    path.rstrip("/") for path in _form(body, self.headers.get("Content-Type", "")).get("paths", [])
                }
                return [entry for entry in entries if entry["path"] in asked]
            return _tree(
                entries, "/".join(path), recursive=query.get("recursive", ["false"])[0].lower() in ("true", "1")
            )

        def _send_file(self, segments: list[str]) -> None:
            kind = "datasets" if segments[0] == "datasets" else "models"
            name, action, arguments = _split(segments[1:] if kind == "datasets" else segments)
            if action != "resolve" or len(arguments) < 2:
                raise NotOnHubError("RepoNotFound", f"Nothing at {self.path}")
            folder, commit = hub.find(kind, name, arguments[0])
            file_name = PurePosixPath("/".join(arguments[1:]))
            path = folder / file_name
            if file_name.is_absolute() or ".." in file_name.parts or not path.is_file():
                raise NotOnHubError("EntryNotFound", "Entry not found")
            headers = {
                "ETag": f'"{_git_blob(path)}"',
                "X-Repo-Commit": commit,
                "Accept-Ranges": "bytes",
                "Content-Type": "application/octet-stream",
            }
            size = path.stat().st_size
            part = _range(self.headers.get("Range"), size)
            if part is None:
                status, part = HTTPStatus.OK, range(size)
            elif part:
                status = HTTPStatus.PARTIAL_CONTENT
                headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
            else:
                status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                headers["Content-Range"] = f"bytes */{size}"
            self._send_headers(status, len(part), headers)
            if self.command != "HEAD":
                with path.open("rb") as file:
                    _copy(file, self.wfile, part)

        def _send_json(
            self, answer: Any, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
        ) -> None:
            content = json.dumps(answer).encode()
            self._send_headers(status, len(content), {"Content-Type": "application/json", **(headers or {})})
            if self.command != "HEAD":
                self.wfile.write(content)

        def _send_headers(self, status: HTTPStatus, length: int, headers: Mapping[str, str]) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(Request(self.command, path, self.headers.get("Range"), int(status)))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()

    return Handler


def _is_about_the_hub(name: str) -> bool:
    return name.startswith(("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_")) or name.lower().endswith("_proxy")


def _split(segments: list[str]) -> tuple[str, str | None, list[str]]:
    """`org/name/tree/main/a` -> ("org/name", "tree", ["main", "a"]); the organisation may be missing."""
    for length in (1, 2):
        if len(segments) > length and segments[length] in _ACTIONS:
            return "/".join(segments[:length]), segments[length], segments[length + 1 :]
    return "/".join(segments), None, []


def _entries(folder: Path) -> list[dict[str, Any]]:
    """The files and folders below a folder, as the hub lists them."""
    entries: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            entries.append({"type": "file", "oid": _git_blob(path), "size": path.stat().st_size, "path": name})
        else:
            entries.append(
                {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0, "path": name}
            )
    return entries


def _tree(entries: list[dict[str, Any]], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Those of the entries that stand in a folder ("" for the root), or below it too. Raises NotOnHubError."""
    if folder and not any(entry["path"] == folder and entry["type"] == "directory" for entry in entries):
        raise NotOnHubError("EntryNotFound", f"{folder} does not exist")
    prefix = f"{folder}/" if folder else ""
    below = [entry for entry in entries if entry["path"].startswith(prefix)]
    return below if recursive else [entry for entry in below if "/" not in entry["path"].removeprefix(prefix)]


def _commit(folder: Path) -> str:
    content = [(entry["path"], entry["oid"]) for entry in _entries(folder)]
    return hashlib.sha1(json.dumps(content).encode()).hexdigest()


def _git_blob(path: Path) -> str:
    """The name git gives a file's content: the hub's `oid` and `ETag` of files that aren't in its large storage."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _form(body: bytes, content_type: str) -> dict[str, list[str]]:
    return json.loads(body) if content_type.startswith("application/json") else parse_qs(body.decode())


def _range(header: str | None, size: int) -> range | None:
    """The bytes that `Range: bytes=first-last` asks for: None for all of them, empty if there are none (416)."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        return range(max(0, size - int(match[2])), size)
    return range(int(match[1]), min(size, int(match[2]) + 1) if match[2] else size)


def _copy(source: BinaryIO, sink: Any, part: range) -> None:
    if part.start == 0 and part.stop == os.fstat(source.fileno()).st_size:
        shutil.copyfileobj(source, sink)
        return
    source.seek(part.start)
    sink.write(source.read(len(part)))
