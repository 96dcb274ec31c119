"""What the hub says of the files of one revision: a folder listed, hashed and addressed as the hub does it.

A file is kept in one of two ways, and every answer about it depends on which:

| | small | large (`is_large`) |
|---|---|---|
| `oid` | git's name of the content | git's name of a pointer file, which holds the SHA-256 and size of the content |
| listed with | `size` | `size`, and `lfs`: the SHA-256, size and the pointer's size |
| `resolve` | the content; `ETag` is the `oid` | a redirect to another host; `X-Linked-ETag` is the SHA-256 |
"""

import hashlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

LARGE_SUFFIXES = {".arrow", ".bin", ".ckpt", ".gz", ".h5", ".onnx", ".parquet", ".pt", ".safetensors", ".xz", ".zst"}
LARGE_SIZE = 10 * 2**20


class HubError(Exception):
    """An answer that isn't what was asked for; `code` is the hub's `X-Error-Code`, None where it sends none."""

    def __init__(self, status: HTTPStatus, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def is_large(path: Path) -> bool:
    """Whether the hub keeps a file in its large storage: by its kind, as a new repository's .gitattributes, or size."""
    return path.suffix in LARGE_SUFFIXES or path.stat().st_size > LARGE_SIZE


def find_file(folder: Path, name: str) -> Path:
    """A file of a revision. Raises HubError, also for what lies outside the folder."""
    file = PurePosixPath(name)
    path = folder / file
    if file.is_absolute() or ".." in file.parts or not path.is_file():
        raise HubError(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
    return path


def entries(folder: Path) -> list[dict[str, Any]]:
    """The files and folders below a folder, as `tree` and `paths-info` list them."""
    listed: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            listed.append({"type": "file", "oid": blob_id(path), "size": path.stat().st_size, "path": name})
            if is_large(path):
                listed[-1]["lfs"] = {
                    "oid": sha256(path),
                    "size": path.stat().st_size,
                    "pointerSize": len(_pointer(path)),
                }
        else:
            listed.append(
                {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0, "path": name}
            )
    return listed


def tree(listed: Iterable[dict[str, Any]], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Those of the entries that stand in a folder ("" for the root), or below it too. Raises HubError."""
    listed = list(listed)
    if folder and not any(entry["path"] == folder and entry["type"] == "directory" for entry in listed):
        raise HubError(HTTPStatus.NOT_FOUND, "EntryNotFound", f"{folder} does not exist")
    prefix = f"{folder}/" if folder else ""
    below = [entry for entry in listed if entry["path"].startswith(prefix)]
    return below if recursive else [entry for entry in below if "/" not in entry["path"].removeprefix(prefix)]


def siblings(listed: Iterable[dict[str, Any]], *, blobs: bool) -> list[dict[str, Any]]:
    """The files as `/api/{kind}/{id}` names them; with `?blobs=true` their sizes and hashes too."""
    files = [entry for entry in listed if entry["type"] == "file"]
    if not blobs:
        return [{"rfilename": entry["path"]} for entry in files]
    return [
        {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
        | ({"lfs": entry["lfs"] | {"sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {})
        for entry in files
    ]


def commit_of(folder: Path) -> str:
    """The commit of a folder's content, in 40 hex digits: the same content is the same commit."""
    content = [(entry["path"], entry["oid"]) for entry in entries(folder)]
    return hashlib.sha1(json.dumps(content).encode()).hexdigest()


def blob_id(path: Path) -> str:
    """The name git gives what it keeps of a file: its content, or of a large one the pointer."""
    if is_large(path):
        return _git_hash(_pointer(path))
    return _digests(path, path.stat().st_mtime_ns)[1]


def sha256(path: Path) -> str:
    """The name of a file's content in the large storage."""
    return _digests(path, path.stat().st_mtime_ns)[0]


def requested_range(header: str | None, size: int) -> range | None:
    """The bytes that `Range: bytes=first-last` asks for: None for all of them, empty if there are none (416)."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        return range(max(0, size - int(match[2])), size)
    return range(int(match[1]), min(size, int(match[2]) + 1) if match[2] else size)


def _pointer(path: Path) -> bytes:
    size = path.stat().st_size
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(path)}\nsize {size}\n".encode()


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@lru_cache(maxsize=1024)
def _digests(path: Path, changed: int) -> tuple[str, str]:
    """SHA-256 and git blob of a file; `changed`, its time of change, is there for the cache."""
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest(), _git_hash(content)
