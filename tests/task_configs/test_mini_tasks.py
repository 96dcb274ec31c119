"""The mini tasks ask and score as the local tasks do, without data; the floors leave the document out."""

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.fda.task import FDA
from lm_eval.tasks.swde.task import SWDE

from recall_evals.task_configs.local.documents import DocumentsError
from recall_evals.task_configs.mini.documents import documents, prompts, rows_sha256

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM: dict[str, Any] = {"mini_fda": FDA, "mini_swde": SWDE}
KINDS: dict[str, Any] = {"mini_fda": "fda", "mini_swde": "swde"}
FLOORS = ("mini_fda_no_document", "mini_swde_no_document")


class Reader(LM):
    """Copies what follows the question's key in the document; says nothing where there is no document."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Instance] = []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.asked += requests
        return [self.read(*request.args[0].rpartition("\n")[::2]) for request in requests]

    def read(self, document: str, question: str) -> str:
        key = question.removesuffix(":")
        place = document.find(key) if key in document else document.lower().find(key.lower())
        return document[place + len(key) :][:60] if place >= 0 else ""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Two bits a byte."""
        self.asked += requests
        return [-2 * math.log(2) * len(request.args[0].encode()) for request in requests]


class Answerer(Reader):
    """Knows the answers."""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.asked += requests
        return [f" {request.doc['value']}" for request in requests]


def manager() -> TaskManager:
    return TaskManager(include_path=str(ROOT / "task_configs"), include_defaults=False)


def load(name: str) -> Any:
    return manager().load(name)["tasks"][name]


def evaluate(tasks: list[str], model: LM, **options: Any) -> dict[str, Any]:
    results = lm_eval.simple_evaluate(model=model, tasks=tasks, task_manager=manager(), **options)
    assert results is not None
    return results


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECALL_EVALS_DATA", raising=False)


@pytest.mark.parametrize("name", UPSTREAM)
def test_asks_and_scores_as_upstream(name: str) -> None:
    task, rows = load(name), prompts(KINDS[name])
    task.build_all_requests()
    assert [instance.doc for instance in task.instances] == rows
    upstream = object.__new__(UPSTREAM[name])  # its constructor would fetch documents
    for instance, row in zip(task.instances, rows, strict=True):
        assert instance.request_type == "generate_until"
        assert instance.args == (upstream.doc_to_text(row), {"until": ["\n"], "max_gen_toks": 48})
        assert instance.args[0] == row["text"]
        for continuation in (f" {row['value'].upper()}. And", row["value"][:-1], ""):
            expected = upstream.process_results(row, [continuation])
            assert expected.items() <= task.process_results(row, [continuation]).items()
    assert task.VERSION == 1


def test_who_copies_the_answer_is_right_and_without_the_document_nobody_is() -> None:
    names = [*UPSTREAM, *FLOORS]
    results = evaluate(names, Reader())
    for name in names:
        found, metadata = results["results"][name], results["configs"][name]["metadata"]
        rows = prompts(KINDS[name.removesuffix("_no_document")])
        assert found["contains,none"] == (0 if name in FLOORS else 1)
        assert results["n-samples"][name] == {"original": 480, "effective": 480}
        assert metadata["documents_sha256"] == rows_sha256(rows)
        assert metadata["documents"].startswith("generated: ")
        assert set(results["higher_is_better"][name]) == {"contains", "contains_stderr_clustered"}
    right = evaluate(names, Answerer())["results"]
    assert [right[name]["contains,none"] for name in names] == [1] * 4
    assert [right[name]["contains_stderr,none"] for name in names] == [0] * 4
    assert [right[name]["contains_stderr_clustered,none"] for name in names] == [0] * 4


def test_clustered_by_document() -> None:
    wrong = {document.doc_id for document in documents("fda", "validation", 20)}

    class WrongAboutSome(Answerer):
        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            answers = super().generate_until(requests)
            return ["" if r.doc["doc_id"] in wrong else answer for r, answer in zip(requests, answers, strict=True)]

    found = evaluate(["mini_fda"], WrongAboutSome())["results"]["mini_fda"]
    assert found["contains,none"] == 0.75
    # Six answers of a document that are right or wrong together are worth one.
    assert found["contains_stderr_clustered,none"] == pytest.approx(found["contains_stderr,none"] * 6**0.5, rel=0.02)


@pytest.mark.parametrize("name", FLOORS)
def test_floors_ask_the_question_alone(name: str) -> None:
    model, rows = Reader(), prompts(KINDS[name.removesuffix("_no_document")])
    evaluate([name], model, limit=9)
    assert [request.args[0] for request in model.asked] == [f"{row['key']}:" for row in rows[:9]]
    assert model.asked[0].args[1] == {"until": ["\n"], "max_gen_toks": 48}


@pytest.mark.parametrize("kind", ["fda", "swde", "squad"])
def test_floors_of_local_documents(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / kind).mkdir()
    file = tmp_path / kind / "validation.jsonl"
    file.write_text('{"text": " One.\\nTwo.\\nColour: ", "value": "red"}\n{"text": "Three.\\nSize:", "value": "9"}\n')
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tmp_path))
    name, model = f"local_{kind}_no_document", Answerer()
    results = evaluate([name, f"local_{kind}"], model)
    asked = {task: [r for r in model.asked if r.task_name == task] for task in (name, f"local_{kind}")}
    assert [request.args[0] for request in asked[name]] == ["Colour:", "Size:"]
    assert [request.args[0] for request in asked[f"local_{kind}"]] == ["One.\nTwo.\nColour:", "Three.\nSize:"]
    assert asked[name][0].args[1] == asked[f"local_{kind}"][0].args[1]
    assert results["results"][name]["contains,none"] == 1
    assert results["versions"][name] == 1
    assert results["configs"][name]["metadata"]["without_document"] is True
    file.write_text('{"text": "One.\\nColour:", "value": "red"}\n{"text": "Three. Size:\\n", "value": "9"}\n')
    with pytest.raises(DocumentsError, match="row 2: `text` has no newline"):
        load(name)
    load(f"local_{kind}")


def test_text() -> None:
    model = Reader()
    results = evaluate(["mini_text"], model, log_samples=True)
    found = results["results"]["mini_text"]
    texts = [document.text for kind in ("fda", "swde") for document in documents(kind, "validation", 12)]
    assert [request.args for request in model.asked] == [(text,) for text in texts]
    assert found["bits_per_byte,none"] == pytest.approx(2)
    assert found["byte_perplexity,none"] == pytest.approx(4)
    characters_a_word = sum(map(len, texts)) / sum(len(text.split()) for text in texts)
    assert found["word_perplexity,none"] == pytest.approx(4**characters_a_word)
    assert len(results["configs"]["mini_text"]["metadata"]["documents_sha256"]) == 64
    json.dumps(results["samples"]["mini_text"])


def test_cached_requests_follow_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache: ModuleType = sys.modules["lm_eval.caching.cache"]
    monkeypatch.setattr(cache, "PATH", str(tmp_path))

    def asked(**options: Any) -> list[str]:
        model = Reader()
        evaluate(["mini_text"], model, cache_requests=True, **options)
        return [request.args[0] for request in model.asked]

    texts = [document.text for kind in ("fda", "swde") for document in documents(kind, "validation", 12)]
    assert asked(samples={"mini_text": [3, 20]}) == [texts[3], texts[20]]
    assert asked(limit=2) == texts[:2]
    assert asked() == texts
    assert len(list(tmp_path.iterdir())) == 2
