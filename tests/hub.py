"""A Hugging Face hub on loopback: the hub's read API over local folders, for tests that download.

    with LoopbackHub(models={"org/name": folder}, datasets={"org/data": {"main": folder, "v2": other}}) as hub:
        subprocess.run(command, env=hub.environment(tmp_path / "home"))

huggingface_hub reads `HF_ENDPOINT` when it is imported, so what downloads must be another process.

| request | answer |
|---|---|
| `GET /api/{models,datasets}/{id}[/revision/{rev}][?blobs=true]` | what the repository is: its commit and files |
| `GET /api/.../{id}/tree/{rev}[/{folder}][?recursive=true]` | the entries of a folder |
| `POST /api/.../{id}/paths-info/{rev}` with `paths` | the entries of those paths that exist |
| `GET /api/.../{id}/refs[?include_prs=1]` | the branches and tags, and the pull requests |
| `GET, HEAD /[datasets/]{id}/resolve/{rev}/{file}` | the file, with `ETag`, `X-Repo-Commit` and ranges |

Large files (`hub_files.is_large`) are redirected to a second port, the CDN, which takes a signature and no token.
What isn't there is a 404 with the hub's `X-Error-Code`: RepoNotFound, RevisionNotFound or EntryNotFound; a repository
that isn't there is a 401 to who has no token, for it might be private. On request repositories are private, gated
(`restrict`) or renamed (`rename`), and answers late, refused, cut short or broken off (`fault`).

Not here: Xet storage (large files are always served as LFS), pagination of listings, searching, writing.
"""

import os
import re
import secrets
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hub_files
from hub_files import HubError
from hub_http import Fault, Request, Server, handler

Folders = Path | Mapping[str, Path]
"""The folder of `main`, or a folder for each revision: a branch, `refs/tags/v1` (asked for as `v1`), `refs/pr/1` or a
commit of 40 hex digits. Any revision can be asked for by its commit, the SHA-1 of its content, too."""

_COMMIT = re.compile("[0-9a-f]{40}")
_TAGS = "refs/tags/"


@dataclass(frozen=True)
class Restriction:
    """Who may read a repository that not all may: who sends one of the tokens."""

    gated: bool
    tokens: frozenset[str]


class LoopbackHub:
    """Serves models and datasets, `id -> Folders`, while the `with` block runs. Folders may change meanwhile.

    Attributes:
        requests: those that were answered, in order.
        tokens: those of somebody's account; any other is refused.
    """

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
        self.tokens: set[str] = set()
        self.restrictions: dict[str, Restriction] = {}
        self.renamed: dict[str, str] = {}
        self.signature = secrets.token_hex(8)
        self.closing = threading.Event()
        self._faults: list[tuple[str, Fault]] = []
        self._spoilt: list[int] = []
        self._lock = threading.Lock()
        self._servers = [Server(("127.0.0.1", 0), handler(self, cdn=cdn)) for cdn in (False, True)]
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            for server in self._servers
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

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

    # -- what tests ask for ---------------------------------------------------------------------------------------

    def fault(self, pattern: str, fault: Fault) -> None:
        """Spoil answers to requests that a pattern fits, such as "GET */resolve/*/model.safetensors".

        It is compared with the method, a blank and the path, hub and CDN alike. The first fault that fits is taken.
        """
        with self._lock:
            self._faults.append((pattern, fault))
            self._spoilt.append(0)

    def restrict(self, name: str, *, gated: bool, tokens: Collection[str] = ()) -> None:
        """Open a repository to some tokens alone: gated, where all see that it is there, or else private."""
        self.restrictions[name] = Restriction(gated, frozenset(tokens))
        self.tokens |= set(tokens)

    def rename(self, old: str, new: str) -> None:
        """Redirect requests for a former id."""
        self.renamed[old] = new

    def downloads(self) -> list[str]:
        """The paths of the files that were sent, in order."""
        return [
            request.path
            for request in self.requests
            if request.method == "GET" and "/resolve/" in request.path and request.status in (200, 206)
        ]

    def commit(self, kind: str, name: str, revision: str = "main") -> str:
        """The commit of a revision; `kind` is "models" or "datasets". Raises HubError."""
        return self.find(kind, name, revision)[1]

    # -- what the handler asks for --------------------------------------------------------------------------------

    def find(self, kind: str, name: str, revision: str) -> tuple[Path, str]:
        """The folder and commit of a revision. Raises HubError."""
        for known, folder in self._revisions(kind, name).items():
            commit = known if _COMMIT.fullmatch(known) else hub_files.commit_of(folder)
            if revision in (known, known.removeprefix(_TAGS), commit):
                return folder, commit
        raise HubError(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")

    def describe(self, kind: str, name: str, revision: str, *, blobs: bool) -> dict[str, Any]:
        """What `/api/{kind}/{name}` answers. Raises HubError."""
        folder, commit = self.find(kind, name, revision)
        restriction = self.restrictions.get(name)
        return {
            "_id": commit[:24],
            "id": name,
            **({"modelId": name} if kind == "models" else {}),
            "sha": commit,
            "lastModified": "2024-02-28T00:00:00.000Z",
            "createdAt": "2024-02-28T00:00:00.000Z",
            "private": restriction is not None and not restriction.gated,
            "gated": "manual" if restriction is not None and restriction.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": hub_files.siblings(hub_files.entries(folder), blobs=blobs),
        }

    def references(self, kind: str, name: str, *, pull_requests: bool) -> dict[str, Any]:
        """What `/api/{kind}/{name}/refs` answers. Raises HubError."""
        answer: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        prefixes = {"tags": _TAGS, "pullRequests": "refs/pr/", "converts": "refs/convert/"}
        for known in self._revisions(kind, name):
            if _COMMIT.fullmatch(known):
                continue
            group = next((group for group, prefix in prefixes.items() if known.startswith(prefix)), "branches")
            reference = f"refs/heads/{known}" if group == "branches" else known
            short = known.removeprefix(prefixes.get(group, ""))
            answer[group].append({"name": short, "ref": reference, "targetCommit": self.commit(kind, name, known)})
        if not pull_requests:
            del answer["pullRequests"]
        return answer

    def admit(self, kind: str, name: str, token: str | None, *, content: bool) -> None:
        """Let a request for a repository through, or for the content of its files. Raises HubError."""
        if token is not None and token not in self.tokens:
            raise HubError(HTTPStatus.UNAUTHORIZED, None, "Invalid credentials in Authorization header")
        restriction = self.restrictions.get(name)
        admitted = restriction is None or token in restriction.tokens
        if name not in self.repositories.get(kind, {}) or not (admitted or (restriction and restriction.gated)):
            if token is None:
                raise HubError(HTTPStatus.UNAUTHORIZED, "RepoNotFound", "Invalid username or password.")
            raise HubError(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")
        if content and not admitted:
            message = f"Access to {kind.removesuffix('s')} {name} is restricted"
            if token is None:
                raise HubError(HTTPStatus.UNAUTHORIZED, "GatedRepo", f"{message}. Please log in.")
            raise HubError(HTTPStatus.FORBIDDEN, "GatedRepo", f"{message} and you are not in the authorized list.")

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault of this answer, which counts as one of its `times`."""
        with self._lock:
            for number, (pattern, fault) in enumerate(self._faults):
                fits = fnmatchcase(f"{method} {path}", pattern)
                if fits and (fault.times is None or self._spoilt[number] < fault.times):
                    self._spoilt[number] += 1
                    return fault
        return None

    def _revisions(self, kind: str, name: str) -> dict[str, Path]:
        if name not in self.repositories.get(kind, {}):
            raise HubError(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")
        return self.repositories[kind][name]


def _is_about_the_hub(name: str) -> bool:
    return name.startswith(("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_")) or name.lower().endswith("_proxy")
