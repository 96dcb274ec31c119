"""The table of the recall gap: from real lm-eval runs of tiny models to Markdown."""

import json
from pathlib import Path

import pytest

import tiny
from recall_evals.evals import gap
from recall_evals.evals.gap import Measured, most_common_answers, run_gap, table


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four documents of two prompts each, as `local_fda` reads them, and a corpus that knows one answer."""
    rows = [
        {"doc_id": f"d{i}", "key": key, "value": value, "text": f"Colour: {value} Shape: round {i}\n{key}:"}
        for i, value in enumerate(("red", "red", "blue", "green"))
        for key, value in (("Colour", value), ("Shape", f"round {i}"))
    ]
    folder = tmp_path / "data" / "fda"
    folder.mkdir(parents=True)
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    known = {"doc_id": "c", "text": "t", "attributes": [["Colour", "red"], ["Colour", "red"], ["Colour", "blue"]]}
    for name in ("fda", "pages", "books"):
        (corpus / f"{name}.jsonl").write_text(json.dumps(known) + "\n")
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tmp_path / "data"))
    return corpus


def test_floor_of_the_most_common_answer(documents):
    assert most_common_answers("local_fda", documents) == 2 / 8  # red, twice; no answer is known for Shape
    assert most_common_answers("local_squad", documents) is None
    # Of the generated tasks no answer occurs in training.
    assert most_common_answers("mini_fda", None) == 0
    assert most_common_answers("mini_swde", None) == 0


def test_a_run_goes_on_where_it_was(documents, tmp_path, monkeypatch):
    models = [str(tiny.save(tmp_path / name, config)) for name, config in (("a", tiny.ATTENTION), ("b", tiny.BASED))]
    output = tmp_path / "out"
    names = {}
    for name, model in zip("ab", models, strict=True):
        (tmp_path / "cwd").mkdir(exist_ok=True)
        (tmp_path / "cwd" / name).symlink_to(model)
        names[name] = model
    monkeypatch.chdir(tmp_path / "cwd")
    real, measured = gap.measure, []

    def count(model, tasks):
        measured.append(model.model.architecture)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return real(model, tasks)

    monkeypatch.setattr(gap, "measure", count)
    with pytest.raises(KeyboardInterrupt):
        run_gap(["a", "b"], output, documents, "cpu", ("local_fda",))
    report = run_gap(["a", "b"], output, documents, "cpu", ("local_fda",)).read_text(encoding="utf-8")
    assert measured == ["attention", "based", "based"]
    assert "| local_fda | 8 / 4" in report
    kept = json.loads((output / "a.json").read_text())
    (task,) = kept["tasks"]
    assert task["task"] == "local_fda" and len(task["hits"]) == 8
    assert task["documents"] == ["d0", "d0", "d1", "d1", "d2", "d2", "d3", "d3"]


def test_the_table_says_what_was_measured(tmp_path):
    documents = [f"d{i // 4}" for i in range(80)]
    for name, right in (("strong", 60), ("weak", 20)):
        hits = [int(i < right) for i in range(80)]
        row = {"task": "t", "hits": hits, "documents": documents, "truncated": 8, "without_document": 0.025}
        model = {"parameters": 1_000_000, "state_bytes": 4_096, "content_hash": "c" * 64}
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"tasks": [row], "model": model, "machine": "a machine"}))
    text = table(["strong", "weak"], tmp_path, {"t": 0.0625})
    strong = Measured("t", [int(i < 60) for i in range(80)], documents, 8, 0.025)
    assert f"75.0 ± {100 * strong.error:.1f}" in text
    line = next(line for line in text.splitlines() if line.startswith("| t ") and "80 / 20" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")][4:] == ["6.2", "2.5 / 2.5", "10.0 / 10.0"]
    pair = next(line for line in text.splitlines() if "strong - weak" in line)
    assert "50.0" in pair and float(pair.strip("| ").split("|")[-1]) < 0.01
    assert "1,000,000" in text and "4,096" in text and "cccccccccccc" in text and "a machine" in text


def test_loss_curves_stand_beside_the_table(tmp_path, monkeypatch):
    row = {"task": "mini_fda", "hits": [1, 0] * 4, "documents": list("aabbccdd"), "truncated": 0, "without_document": 0}
    model = {"parameters": 1, "state_bytes": 1, "content_hash": "c" * 64}
    (tmp_path / "a.json").write_text(json.dumps({"tasks": [row], "model": model, "machine": "a machine"}))
    assert "loss.png" not in run_gap(["a"], tmp_path, None, "cpu", ("mini_fda",)).read_text()
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "loss.jsonl").write_text("".join(json.dumps({"tokens": n, "loss": 9 - n}) + "\n" for n in range(8)))
    monkeypatch.setattr(gap, "bundled", lambda name: trained)
    assert "![Training loss](loss.png)" in run_gap(["a"], tmp_path, None, "cpu", ("mini_fda",)).read_text()
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
