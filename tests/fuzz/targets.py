"""What is promised of foreign bytes, one check a target: an answer that holds together, or our own error.

Nothing else may come out, no code of the file may run, and what was accepted must work. Each check takes plain values,
so that a found case is a line in test_found_cases.py; `TARGETS` pairs it with the inputs to try, which test_targets.py
and run.py draw.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import tiny
from fuzz import inputs
from recall_evals.adapters.decoding import Generation
from recall_evals.adapters.tokenizer import decode, load_tokenizer
from recall_evals.models.checkpoint import Checkpoint, find_checkpoint
from recall_evals.models.errors import ConfigurationError, ModelError
from recall_evals.models.loading import detect_architecture, load_checkpoint, load_model, model_class
from recall_evals.models.sequence_model import SequenceModel
from recall_evals.task_configs.local.documents import DocumentsError, DocumentsNotFoundError, load_documents

# Audit events of a process that does more than read: what a harmful pickle would cause.
FORBIDDEN = ("os.", "subprocess.", "shutil.", "socket.", "ctypes.dlopen", "webbrowser.")
HARMLESS = ("os.listdir", "os.scandir", "os.putenv", "os.unsetenv")
_watching = False
_seen: list[str] = []


def _watch(event: str, arguments: Any) -> None:
    if not _watching:
        return
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or (event.startswith(FORBIDDEN) and event not in HARMLESS):
        _seen.append(f"{event}{arguments}")


sys.addaudithook(_watch)


@contextlib.contextmanager
def only_reading() -> Iterator[None]:
    """Fails if anything in the block writes a file, starts a process or opens a connection."""
    global _watching
    _seen.clear()
    sys.dont_write_bytecode = True  # of what is imported only now
    _watching = True
    try:
        yield
    finally:
        _watching = False
        sys.dont_write_bytecode = False
        assert not _seen, f"not only read: {_seen}"


@cache
def scratch() -> Path:
    """This process's folder for the files of a check, in memory where there is such a place."""
    memory = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(prefix="recall-evals-fuzz-", dir=memory if memory.is_dir() else None)
    scratch.keep = folder  # type: ignore[attr-defined]
    return Path(folder.name)


def fill(files: Mapping[str, bytes]) -> Path:
    """The scratch folder with these files and no others."""
    folder = scratch()
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def run(model: SequenceModel) -> None:
    """A model that was accepted reads tokens, whole and in parts."""
    rows = model.embedding.num_embeddings
    tokens = torch.arange(min(3, model.positions or 3)) % rows
    assert model.forward(tokens[None]).shape == (1, len(tokens), rows)
    scores, state = model.prefill(tokens[:1], [1])
    for token in tokens[1:]:
        scores = model.step(token[None], state)
    assert scores.shape == (1, rows)


@cache
def warm_up() -> None:
    """Torch makes a cache folder when it first needs one, and modules are imported late."""
    with tempfile.TemporaryDirectory() as folder:
        run(load_model(tiny.save(Path(folder), tiny.BASED)))


def load_folder() -> SequenceModel | None:
    """The model of the scratch folder, or None where it is refused by an error of ours."""
    warm_up()
    with only_reading():
        try:
            return load_checkpoint(find_checkpoint(scratch()))
        except ModelError as error:
            str(error).encode()  # can be printed
            assert len(str(error)) < 20_000
            return None


def check_configuration(config: bytes, weights: str) -> None:
    """config.json beside fitting weights of the architecture; then, where a model can be made of it, beside its own."""
    folder = fill({"config.json": config, "model.safetensors": save(inputs.weights(weights))})
    if model := load_folder():
        run(model)
    try:
        parsed = Checkpoint(str(folder), folder / "config.json", [], None).config()
        with torch.device("meta"):
            own = model_class(detect_architecture(parsed))(parsed)
    except ConfigurationError:
        return
    shapes = {name: t.shape for name, t in own.state_dict().items()}
    if sum(shape.numel() for shape in shapes.values()) < 300_000:
        fill({"config.json": config, "model.safetensors": save({n: torch.full(s, 0.01) for n, s in shapes.items()})})
        model = load_folder()
        assert model is not None, "weights of the very shapes that the configuration asks for are refused"
        run(model)


def check_weights(files: Mapping[str, bytes]) -> None:
    """Weights, and perhaps their index, beside a good config.json of BASED."""
    fill({"config.json": json.dumps(inputs.CONFIGS["based"]).encode(), **files})
    if model := load_folder():
        run(model)


def check_documents(name: str, content: bytes) -> None:
    """A documents file: rows that each have a prompt and an answer, or our error."""
    folder = fill({name: content})
    with pytest.MonkeyPatch.context() as patch, only_reading():
        patch.setenv("RECALL_EVALS_DATA", str(folder.parent))
        try:
            documents = load_documents(folder.name)
        except (DocumentsError, DocumentsNotFoundError) as error:
            str(error).encode()
            return
        rows = list(documents.rows)
    assert rows
    for row in rows:
        assert isinstance(row, dict) and row["text"].strip() and row["value"].strip()
    json.dumps(rows, default=str).encode()


@cache
def tokenizer(name: str) -> Any:
    if name == "gpt2":
        return load_tokenizer(tiny.SHARED / "data" / "gpt2" / "tokenizer.json", "")
    with tempfile.TemporaryDirectory() as folder:
        tiny.save_byte_tokenizer(Path(folder) / "tokenizer.json")
        return load_tokenizer(Path(folder) / "tokenizer.json", "")


def check_stops(name: str, tokens: Sequence[int], stops: Sequence[str], limit: int, end: int | None) -> None:
    """Reading only the newest tokens stops where decoding everything at every token would, with the same answer.

    While tokens may follow, U+FFFD at the end of the text may be half a character, and is no text yet.
    """

    def text_of(ids: Sequence[int]) -> str:
        return decode(tokenizer(name), ids)

    job, taken = Generation([1], stops, limit), 0
    for token in tokens:
        taken += 1
        if job.append(token, end, text_of):
            break

    want = None
    for n in range(1, len(tokens) + 1):
        ended = tokens[n - 1] == end
        text = text_of(tokens[: n - ended])
        final = ended or n == limit
        seen = text if final else text.rstrip("\ufffd")
        places = [seen.index(stop) for stop in stops if stop and stop in seen]
        if final or places:
            want = n, seen[: min(places)] if places else seen
            break
    assert want == (None if job.text is None else (taken, job.text))


TARGETS = {
    "configuration": (check_configuration, inputs.configurations),
    "weights": (check_weights, inputs.weight_files),
    "documents": (check_documents, inputs.documents),
    "stops": (check_stops, inputs.generations),
}
