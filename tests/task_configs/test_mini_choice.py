"""Four values to choose from: no single cue decides among them, they are the same everywhere, lm-eval scores them."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from recall_evals import task_configs
from recall_evals.results.statistics import clustered_standard_error, standard_error
from recall_evals.task_configs.mini.choices import choice_rows, form
from recall_evals.task_configs.mini.documents import Document, documents, prompts, rows_sha256

TASK, FLOOR = "mini_fda_choice", "mini_fda_choice_no_document"
# Of the rows. Whoever changes them changes the benchmark.
GOLDEN = "ccf7047b8bf3333d9bed8507931c4439488d7823ce84b26115c1fbd5c2a424be"
HASH = (
    "import sys; from recall_evals.task_configs.mini.choices import choice_rows;"
    "from recall_evals.task_configs.mini.documents import rows_sha256; print(rows_sha256(choice_rows('fda')),"
    " [name for name in ('torch', 'numpy', 'datasets', 'lm_eval') if name in sys.modules])"
)
LIST = (
    "import sys; from lm_eval.tasks import TaskManager; from recall_evals import task_configs;"
    "found = TaskManager(include_path=[*task_configs.__path__], include_defaults=False).all_tasks;"
    f"print({{'{TASK}', '{FLOOR}'}} <= set(found), [name for name in sys.modules if 'task_configs.mini' in name])"
)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return choice_rows("fda")


@pytest.fixture(scope="module")
def by_id() -> dict[str, Document]:
    return {document.doc_id: document for document in documents("fda", "validation")}


def manager() -> TaskManager:
    return TaskManager(include_path=[*task_configs.__path__], include_defaults=False)


def evaluate(tasks: list[str], model: LM | str, **options: Any) -> dict[str, Any]:
    results = lm_eval.simple_evaluate(model, tasks=tasks, task_manager=manager(), **options)
    assert results is not None
    return results


def python(code: str) -> str:
    environment = os.environ | {"PYTHONHASHSEED": "7", "RECALL_EVALS_NO_DISCOVERY": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout


def test_questions_are_those_of_mini_fda_and_the_choices_the_same_everywhere(rows: list[dict[str, Any]]) -> None:
    assert [{name: row[name] for name in ("doc_id", "key", "value", "text")} for row in rows] == prompts("fda")
    assert all(row["choices"][row["gold"]] == row["value"] for row in rows)
    assert rows_sha256(rows) == GOLDEN
    assert python(HASH) == f"{GOLDEN} []\n"


def test_listing_makes_no_documents() -> None:
    assert python(LIST) == "True []\n"


def test_wrong_values_are_wrong_and_of_the_sort_they_say(
    rows: list[dict[str, Any]], by_id: dict[str, Document]
) -> None:
    for row in rows:
        document, right = by_id[row["doc_id"]], row["value"].lower()
        assert len(row["choices"]) == len(row["sorts"]) == len({choice.lower() for choice in row["choices"]}) == 4
        assert sorted(Counter(row["sorts"]).values()) == [1, 1, 2] and row["sorts"].count("right") == 1
        for choice, sort in zip(row["choices"], row["sorts"], strict=True):
            here = [fact.key for fact in document.facts if fact.value == choice]
            elsewhere = [d.doc_id for d in by_id.values() for f in d.facts if (f.key, f.value) == (row["key"], choice)]
            if sort == "right":
                assert (here, elsewhere) == ([row["key"]], [row["doc_id"]])
                continue
            assert right not in choice.lower() and choice.lower() not in right
            if sort == "document":
                assert len(here) == 1 and here != [row["key"]]
            else:
                assert sort == "key" and len(elsewhere) == 1 and elsewhere != [row["doc_id"]]
                assert choice.lower() not in document.text.lower()


def test_no_single_cue_decides(rows: list[dict[str, Any]], by_id: dict[str, Document]) -> None:
    """Shares right of those who know but one thing, 5/12 and 1/4 but for chance."""
    gold = Counter(row["gold"] for row in rows)
    assert all(95 <= gold[place] <= 145 for place in range(4)), gold  # 120 ± 9.5 (2.6 standard deviations)
    for sort in ("document", "key"):
        assert sum(1 / (1 + row["sorts"].count(sort)) for row in rows) / 480 == pytest.approx(5 / 12, abs=0.02)
    for length in (min, max):
        guesses = [row["choices"].index(length(row["choices"], key=len)) == row["gold"] for row in rows]
        assert sum(guesses) / 480 < 0.3
    # Where the document has other values that look like the right one, such as a second person's name, one is there.
    alike = 0
    for row in rows:
        looks, facts = form(row["value"]), by_id[row["doc_id"]].facts
        possible = any(form(fact.value) == looks for fact in facts if fact.key != row["key"])
        pairs = zip(row["choices"], row["sorts"], strict=True)
        assert possible == any(sort == "document" and form(choice) == looks for choice, sort in pairs)
        alike += possible
    assert alike > 480 / 4
    assert [form(text) for text in ("Ada Quist", "HX551006", "4.4 to 9 ug/L")] == ["Aa Aa", "A9", "9.9 a 9 a/A"]


class Knows(LM):
    """Prefers some of the choices: those whose sort is among `sorts`, of equal ones the first."""

    def __init__(self, *sorts: str) -> None:
        super().__init__()
        self.sorts = sorts
        self.asked: list[Instance] = []

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self.asked += requests
        return [(-float(request.doc["sorts"][request.idx] not in self.sorts), False) for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError


def test_asks_each_choice_after_the_prompt_and_the_floor_after_the_question(rows: list[dict[str, Any]]) -> None:
    model = Knows("right")
    found = evaluate([TASK, FLOOR], model, log_samples=False)
    for name in (TASK, FLOOR):
        texts = [row["text"] if name == TASK else f"{row['key']}:" for row in rows]
        expected = [(text, f" {choice}") for text, row in zip(texts, rows, strict=True) for choice in row["choices"]]
        assert [request.args for request in model.asked if request.task_name == name] == expected
        assert found["versions"][name] == 1
        scores = found["results"][name]
        assert [scores[f"{metric},none"] for metric in ("acc", "acc_norm")] == [1, 1]
        assert [scores[f"{metric}_stderr_clustered,none"] for metric in ("acc", "acc_norm")] == [0, 0]
        metadata = found["configs"][name]["metadata"]
        assert metadata["documents_sha256"] == GOLDEN and metadata["documents"].startswith("generated: ")
        assert found["higher_is_better"][name]["acc_stderr_clustered"] is False


@pytest.mark.parametrize("wrong", ["document", "key"])
def test_who_knows_one_cue_is_right_as_often_as_said(wrong: str) -> None:
    scores = evaluate([TASK], Knows("right", wrong), log_samples=False)["results"][TASK]
    assert scores["acc,none"] == pytest.approx(5 / 12, abs=0.06)


def test_a_real_run(recall_model: Path) -> None:
    """The end of each prompt, through a tiny model that reads bytes; from its scores, what lm-eval reports."""
    arguments = f"pretrained={recall_model},max_length=256"
    results = evaluate([TASK], "based", model_args=arguments, limit=24, device="cpu", batch_size=16)
    scores, samples = results["results"][TASK], results["samples"][TASK]
    assert len(samples) == 24 and len({sample["doc"]["doc_id"] for sample in samples}) == 4
    clusters = [sample["doc"]["doc_id"] for sample in samples]
    for metric in ("acc", "acc_norm"):
        right = []
        for sample in samples:
            doc = sample["doc"]
            likelihoods = np.array([float(value) for value, _ in sample["filtered_resps"]])
            lengths = [len(choice) for choice in doc["choices"]] if metric == "acc_norm" else 1
            right.append(float(np.argmax(likelihoods / lengths) == doc["gold"]))
            assert doc["answer_place"]["in_document"] == 1
        assert [sample[metric] for sample in samples] == right
        assert 0 < sum(right) < 24, "else its standard errors show nothing"
        assert scores[f"{metric},none"] == pytest.approx(sum(right) / 24)
        assert scores[f"{metric}_stderr,none"] == pytest.approx(standard_error(right))
        assert scores[f"{metric}_stderr_clustered,none"] == pytest.approx(clustered_standard_error(right, clusters))
