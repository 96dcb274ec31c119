"""A model and documents that the tests of the recall tasks ask about."""

from pathlib import Path

import pytest

import tiny
from recall_rows import forms, passages, write


@pytest.fixture(scope="module")
def recall_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, whose tokenizer of bytes also stands in for GPT-2's."""
    return tiny.save(tmp_path_factory.mktemp("model") / "based", tiny.BASED, seed=1)


@pytest.fixture
def recall_data(recall_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$RECALL_EVALS_DATA with twelve rows of each kind, squad's without `doc_id`, and a tokenizer to cut with."""
    write(tmp_path / "swde", forms())
    write(tmp_path / "fda", forms())
    write(tmp_path / "squad", passages())
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tmp_path))
    monkeypatch.setenv("RECALL_EVALS_GPT2", str(recall_model))
    return tmp_path
