"""What a job's answers depend on beside its flags: the checkpoint's files or commit, and the user's own documents."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from ...models.checkpoint import find_folder
from ...models.errors import ModelError
from ...models.hub import fetch_from_hub
from .suite import Model, Questions
from .yaml_lines import Problems

LOCAL, DATA_SETS = "local_", ("fda", "swde", "squad")
DATA_SUFFIXES = (".jsonl", ".xz", ".gz", ".zst", ".parquet")


@dataclass
class Digests:
    """SHA-256 of files, kept in `file` so that one of the same path, size and time of change is read once."""

    file: Path
    known: dict[str, list[object]] = field(default_factory=dict)

    def load(self) -> "Digests":
        try:
            self.known = dict(json.loads(self.file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # nothing is lost but time
            self.known = {}
        return self

    def save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        new = self.file.with_suffix(f".{os.getpid()}")  # a second sweep may come as far as this
        new.write_text(json.dumps(self.known, indent=0), encoding="utf-8")
        new.replace(self.file)

    def of_file(self, file: Path) -> str:
        status, name = file.stat(), str(file.resolve())
        key = [status.st_size, status.st_mtime_ns, status.st_ino]
        found = self.known.get(name)
        if not found or found[:-1] != key:
            with file.open("rb") as stream:
                found = [*key, hashlib.file_digest(stream, "sha256").hexdigest()]
            self.known[name] = found
        return str(found[-1])

    def of_folder(self, folder: Path, suffixes: tuple[str, ...] = ()) -> str:
        """Over the names and contents of the files in a folder, of some suffixes only where any are given."""
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        listed = [
            (str(file.relative_to(folder)), self.of_file(file))
            for file in files
            if not suffixes or file.suffix in suffixes
        ]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def content_of(model: Model, digests: Digests, problems: Problems) -> str | None:
    """The SHA-256 of a checkpoint's folder, or a hub repository's commit; None: the backend reads neither.

    A hub that can't be asked, or has no such repository, is a problem at the model's line.
    """
    source = model.pretrained
    if not isinstance(source, str):
        return None
    folder = find_folder(source) if model.is_ours else Path(source).expanduser()
    if folder is not None and folder.is_dir():
        return digests.of_folder(folder)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        return None
    try:
        config = fetch_from_hub(source, "config.json", model.args.get("revision"))
    except ModelError as error:
        problems.add(model.line, str(error))
        return None
    if config is None:
        problems.add(model.line, f"{source}: no config.json there (offline: in the hub's cache); check the name")
        return None
    return config.parent.name


def documents_of(questions: Questions, digests: Digests) -> str | None:
    """The SHA-256 of the user's own documents, where the tasks read any."""
    root = os.environ.get("RECALL_EVALS_DATA")
    local = [name for name in questions.tasks if name.startswith(LOCAL)]
    if not root or not local:
        return None
    folders = [Path(root, kind) for kind in DATA_SETS if any(f"_{kind}" in name for name in local)]
    return " ".join(digests.of_folder(folder, DATA_SUFFIXES) for folder in folders)
