"""Finding and reading the files of a checkpoint: a folder, a bundled one, or a repository of the Hugging Face hub."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .bundled import PREFIX, bundled, bundled_here
from .checksums import Checksums
from .errors import CheckpointError, ConfigurationError
from .fields import shown
from .hub import fetch_from_hub
from .weights import read_index, read_tensors

# safetensors first; the others are pickles, read without running code. H3's releases are called model.pt.
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pt")


@dataclass(frozen=True)
class Checkpoint:
    """The files of one checkpoint.

    Attributes:
        source: as the user named it; `bundled:<name>` for a bundled one.
        config_file: its config.json.
        weight_files: one file, or all shards.
        revision: the hub's commit hash; None for a folder.
    """

    source: str
    config_file: Path
    weight_files: list[Path]
    revision: str | None

    def config(self) -> dict[str, Any]:
        """The parsed config.json."""
        try:
            config = json.loads(self.config_file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{self.config_file}: can't be read ({error}); check the file") from error
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{self.config_file}: not valid JSON ({error}); download it again") from error
        if not isinstance(config, dict):
            raise ConfigurationError(f"{self.config_file}: must hold an object, holds a {type(config).__name__}")
        return config

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as stored, on the CPU."""
        merged: dict[str, Tensor] = {}
        home: dict[str, Path] = {}
        for file in self.weight_files:
            for name, tensor in read_tensors(file).items():
                if name in merged:
                    raise CheckpointError(f"{file}: {shown(name)} is also in {home[name].name}; keep one of them")
                merged[name], home[name] = tensor, file
        return merged

    def content_hash(self) -> str:
        """SHA-256 over config.json and the weight files, in the order of their names."""
        digest = hashlib.sha256(self.config_file.read_bytes())
        for file in self.weight_files:
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()


def find_checkpoint(source: str | Path, revision: str | None = None) -> Checkpoint:
    """Locate the files of `source`: a folder that exists, otherwise a bundled checkpoint's name (`based`, or
    `bundled:based`, which no folder can hide), otherwise a hub id (read through the hub's cache).

    A folder's files are checked against its SHA256SUMS, where it has one.

    Raises:
        CheckpointError: no such folder or repository, no config.json or weights in it, a file that is not as SHA256SUMS
            lists it, a revision given for a folder, a hub that can't be asked or won't answer.
    """
    text = str(source)
    folder = find_folder(source)
    if folder is not None:
        if folder == bundled(text):
            text = PREFIX + text.removeprefix(PREFIX)
        if revision is not None:
            raise CheckpointError(f"{text} is a folder and has no revision {revision!r}; leave revision out")
        sums = Checksums(folder)
        return _collect(text, lambda name: sums.check(name) if (folder / name).is_file() else None, None)
    if Path(source).expanduser().exists() or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise CheckpointError(f"{source}: no such folder (a hub id has the form owner/name)")
    if "/" not in text or text.startswith(PREFIX):
        raise CheckpointError(
            f"{source}: no such folder or bundled checkpoint ({bundled_here()}); else give a folder, or a hub id, "
            "which has the form owner/name"
        )

    config_file = fetch_from_hub(text, "config.json", revision)
    if config_file is None:
        raise CheckpointError(_no_config(text, revision))
    # .../snapshots/<commit>/config.json: everything else is taken from that commit, even if the branch moves on.
    commit = config_file.parent.name
    return _collect(text, lambda name: fetch_from_hub(text, name, commit), commit)


def find_folder(source: str | Path) -> Path | None:
    """The folder that `source` names: one that exists, or a bundled checkpoint's; None: neither, so a hub id."""
    folder = Path(source).expanduser()
    return folder if folder.is_dir() and not str(source).startswith(PREFIX) else bundled(str(source))


def _no_config(repository: str, revision: str | None) -> str:
    from huggingface_hub import is_offline_mode

    at = "" if revision is None else f" at revision {revision!r}"
    if is_offline_mode():
        return (
            f"{repository}: there is no such folder, it is not in the hub's cache{at}, and the hub must not be asked; "
            "check the name, or unset HF_HUB_OFFLINE"
        )
    return f"{repository}: the hub's repository has no config.json{at}; give a checkpoint's repository or revision"


def _collect(source: str, fetch: Callable[[str], Path | None], revision: str | None) -> Checkpoint:
    """The files that `fetch` finds by name; `revision` is the hub's commit."""
    where = "the folder" if revision is None else "the hub's repository (or, offline, its part in the cache)"
    config_file = fetch("config.json")
    if config_file is None:
        hidden = f" (the bundled checkpoint is {PREFIX}{source})" if bundled(source) and revision is None else ""
        raise CheckpointError(f"{source}: no config.json in {where}; it must lie beside the weights{hidden}")
    for name in WEIGHTS:
        if (file := fetch(name)) is not None:
            return Checkpoint(source, config_file, [file], revision)
        if (index := fetch(f"{name}.index.json")) is not None:
            shards = read_index(index)
            found = {shard: fetch(shard) for shard in shards}
            files = [file for file in found.values() if file is not None]
            if missing := [shard for shard, file in found.items() if file is None]:
                raise CheckpointError(
                    f"{source}: {index.name} names shards that {where} lacks: {', '.join(missing)}; "
                    + ("copy them there" if revision is None else "give another revision, or a complete folder")
                )
            return Checkpoint(source, config_file, files, revision)
    raise CheckpointError(
        f"{source}: no weights; looked for {', '.join(WEIGHTS)} and their .index.json in {where}; "
        + ("copy them there" if revision is None else "give another revision, or a folder with weights")
    )
