"""The local tasks ask and score exactly as lm-eval's own classes do, and add standard errors."""

import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks.fda.task import FDA
from lm_eval.tasks.squad_completion.task import SQUADCompletion
from lm_eval.tasks.swde.task import SWDE
from lm_eval.utils import hash_string

from recall_evals.results.statistics import clustered_standard_error, standard_error
from recall_evals.task_configs.local.documents import DocumentsError, DocumentsNotFoundError
from recall_evals.task_configs.local.tasks import clustered_stderr

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = ROOT.parent / "shared" / "data"
UPSTREAM = {"local_swde": SWDE, "local_fda": FDA, "local_squad": SQUADCompletion}
TASKS = list(UPSTREAM)

ROWS = [
    {
        "doc_id": f"doc {number // 4}",
        "key": "Key (a+b)",
        "value": ["alpha", " BETA\n", "(c.d)*", "12"][number % 4],
        "text": f" Document {number // 4} says alpha, beta, (c.d)* and 12.\nKey {number}: ",
    }
    for number in range(12)
]


class OddAnswerer(LM):
    """Right where the number of prompts it was asked before is odd; counts what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Instance] = []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        answers = []
        for request in requests:
            right = len(self.asked) % 2
            answers.append(f" it is {request.doc['value'].strip().upper()}" if right else "wrong")
            self.asked.append(request)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$RECALL_EVALS_DATA with the same twelve synthetic rows for each task."""
    for task in TASKS:
        write(tmp_path / task.removeprefix("local_"), ROWS)
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tmp_path))
    return tmp_path


def manager() -> TaskManager:
    return TaskManager(include_path=str(ROOT / "task_configs"), include_defaults=False)


def load(name: str) -> Any:
    return manager().load(name)["tasks"][name]


def upstream(name: str, rows: datasets.Dataset) -> ConfigurableTask:
    """lm-eval's own task, of those rows instead of a download."""

    base: Any = UPSTREAM[name]

    class WithRows(base):
        def download(self, *args: Any, **kwargs: Any) -> None:
            self.dataset = {"validation": rows}

    task = WithRows()
    task.set_config(key="num_fewshot", value=0)  # as lm-eval's evaluator does
    return task


def evaluate(tasks: list[str], model: LM | None = None, **options: Any) -> dict[str, Any]:
    results = lm_eval.simple_evaluate(model=model or OddAnswerer(), tasks=tasks, task_manager=manager(), **options)
    assert results is not None
    return results


def assert_asks_and_scores_as_upstream(name: str) -> None:
    task = load(name)
    theirs = upstream(name, task.dataset["validation"])
    for either in (task, theirs):
        either.build_all_requests()
    assert len(task.instances) == len(task.eval_docs)
    for mine, other in zip(task.instances, theirs.instances, strict=True):
        assert mine.args == other.args
        assert (mine.request_type, mine.doc, mine.doc_id) == (other.request_type, other.doc, other.doc_id)
        target = theirs.doc_to_target(other.doc)
        assert task.doc_to_target(mine.doc) == target
        for continuation in (f"The {target.upper()}.", target[:-1], "", other.doc["value"]):
            expected = theirs.process_results(other.doc, [continuation])
            assert expected.items() <= task.process_results(mine.doc, [continuation]).items()
    assert task.VERSION == theirs.VERSION == 1
    assert task.OUTPUT_TYPE == theirs.OUTPUT_TYPE
    # What the results file says was asked is what was asked.
    assert task.instances[0].args[1] == task.config.generation_kwargs


@pytest.mark.parametrize("name", TASKS)
def test_synthetic_rows_as_upstream(data: Path, name: str) -> None:
    assert_asks_and_scores_as_upstream(name)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no ../shared/data: would compare every real prompt with upstream's")
@pytest.mark.parametrize(("name", "prompts"), [("local_swde", 875), ("local_fda", 763), ("local_squad", 1500)])
def test_real_rows_as_upstream(monkeypatch: pytest.MonkeyPatch, name: str, prompts: int) -> None:
    monkeypatch.setenv("RECALL_EVALS_DATA", str(REAL_DATA))
    assert_asks_and_scores_as_upstream(name)
    task = load(name)
    assert len(task.eval_docs) == prompts
    with lzma.open(REAL_DATA / name.removeprefix("local_") / "validation.jsonl.xz", "rt", encoding="utf-8") as file:
        assert task.eval_docs.to_list() == [json.loads(line) for line in file]


def test_results_carry_both_standard_errors(data: Path) -> None:
    results = evaluate(TASKS)
    scores = [number % 2 for number in range(12)]
    for name in TASKS:
        assert results["results"][name]["contains,none"] == 0.5
        assert results["results"][name]["contains_stderr,none"] == pytest.approx(standard_error(scores))
        clusters = [row["doc_id"] for row in ROWS]
        expected = clustered_standard_error(scores, clusters)
        assert results["results"][name]["contains_stderr_clustered,none"] == pytest.approx(expected)
        assert results["higher_is_better"][name] == {"contains": True, "contains_stderr_clustered": False}
        assert results["versions"][name] == 1
        metadata = results["configs"][name]["metadata"]
        assert metadata["documents"] == f"{name.removeprefix('local_')}/validation.jsonl"
        assert len(metadata["documents_sha256"]) == 64
    table = lm_eval.utils.make_table(results)
    assert table.count("contains_stderr_clustered") == 3


def test_rows_without_doc_id_are_their_own_clusters() -> None:
    scores = [1, 0, 0, 1, 1]
    assert clustered_stderr([(score, None) for score in scores]) == pytest.approx(standard_error(scores))
    mixed = clustered_stderr(list(zip(scores, ["a", "a", None, None, "b"], strict=True)))
    assert mixed == pytest.approx(clustered_standard_error(scores, [0, 0, 1, 2, 3]))
    assert clustered_stderr([(1, "a"), (0, "a")]) == "N/A"
    assert clustered_stderr([(1, None)]) == "N/A"


@pytest.mark.parametrize(
    ("doc_id", "cluster"), [("a", "a"), (7, "7"), (None, None), (" ", None), (float("nan"), None), (0, "0")]
)
def test_clusters_of_doc_ids(data: Path, doc_id: object, cluster: str | None) -> None:
    doc = {**ROWS[0], "doc_id": doc_id}
    assert load("local_fda").process_results(doc, ["x"])["contains_stderr_clustered"] == (0, cluster)


def test_limit_of_one_document_and_log_samples(data: Path) -> None:
    results = evaluate(["local_fda"], limit=3, log_samples=True)
    assert results["results"]["local_fda"]["contains_stderr_clustered,none"] == "N/A"
    samples = results["samples"]["local_fda"]
    assert [sample["contains"] for sample in samples] == [0, 1, 0]
    assert [sample["contains_stderr_clustered"] for sample in samples] == [(0, "doc 0"), (1, "doc 0"), (0, "doc 0")]
    prompt = "Document 0 says alpha, beta, (c.d)* and 12.\nKey 0:"
    place = {"prompt_characters": 50, "distance_characters": 44 - 21, "depth": 16 / 50, "in_prompt": 1}
    assert (len(prompt), prompt.index("alpha"), prompt.index("Key")) == (50, 16, 44)
    assert samples[0]["doc"] == ROWS[0] | {"answer_place": place | {"in_document": 1}}
    assert samples[0]["doc_hash"] == hash_string(json.dumps(ROWS[0], indent=2)), "of the row without its place"
    json.dumps(samples)


def test_samples(data: Path) -> None:
    model = OddAnswerer()
    evaluate(["local_fda", "local_swde"], model, samples={"local_fda": [1, 5, 9], "local_swde": [2]})
    assert [request.doc["text"] for request in model.asked] == [ROWS[row]["text"] for row in (1, 5, 9, 2)]


def test_cached_answers(data: Path, tmp_path: Path) -> None:
    first, second = OddAnswerer(), OddAnswerer()
    before = evaluate(["local_fda"], first, use_cache=str(tmp_path / "answers"))
    after = evaluate(["local_fda"], second, use_cache=str(tmp_path / "answers"))
    assert (len(first.asked), len(second.asked)) == (12, 0)
    assert before["results"] == after["results"]


def test_cached_requests_follow_the_documents(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache: ModuleType = sys.modules["lm_eval.caching.cache"]
    monkeypatch.setattr(cache, "PATH", str(tmp_path / "requests"))

    def prompts(**options: Any) -> list[str]:
        model = OddAnswerer()
        evaluate(["local_fda"], model, cache_requests=True, **options)
        return [request.args[0] for request in model.asked]

    def cached() -> int:
        return len(list((tmp_path / "requests").iterdir()))

    whole = [row["text"].strip() for row in ROWS]
    assert prompts(samples={"local_fda": [3, 4]}) == whole[3:5]
    assert prompts(limit=2) == whole[:2]
    assert prompts() == whole
    assert cached() == 2
    changed = [{**row, "text": "Other: " + row["text"]} for row in ROWS]
    write(data / "fda", changed)
    assert prompts() == [row["text"].strip() for row in changed]
    assert cached() == 3


def test_generation_arguments_reach_squad_as_upstream(data: Path) -> None:
    model = OddAnswerer()
    evaluate(["local_squad"], model, gen_kwargs={"until": ["\n"], "max_gen_toks": 48}, limit=1)
    arguments = model.asked[0].args[1]
    assert (arguments["until"], arguments["max_gen_toks"]) == (["\n"], 48)


def test_few_shot_is_ignored(data: Path) -> None:
    model = OddAnswerer()
    evaluate(["local_fda"], model, num_fewshot=2, limit=1)
    assert model.asked[0].args[0] == ROWS[0]["text"].strip()


def test_a_task_of_ones_own_folder(data: Path, tmp_path: Path) -> None:
    write(data / "contracts", ROWS[:5])
    config = tmp_path / "contracts.yaml"
    config.write_text(
        f"include: {ROOT / 'task_configs/local/local_fda.yaml'}\ntask: contracts\ndataset_path: contracts\n"
    )
    task = manager().load(str(config))["tasks"]["contracts"]
    assert task.eval_docs.to_list() == ROWS[:5]


def test_bad_documents_stop_the_run_before_the_model_is_asked(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(data / "fda", [*ROWS, {**ROWS[0], "value": " "}])
    model = OddAnswerer()
    with pytest.raises(DocumentsError, match="row 13: `value` is empty"):
        evaluate(["local_swde", "local_fda"], model)
    monkeypatch.delenv("RECALL_EVALS_DATA")
    with pytest.raises(DocumentsNotFoundError, match="RECALL_EVALS_DATA"):
        evaluate(["local_squad"], model)
    assert not model.asked


@pytest.fixture
def console(tmp_path: Path, few_tasks: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs lm-eval's console script offline in an empty folder, without $RECALL_EVALS_DATA unless given."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "RECALL_EVALS_DATA"}
        # The dummy model's tokenizer would be looked for on the hub.
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), **few_tasks, **variables}
        script = Path(sys.executable).with_name("lm_eval")
        return subprocess.run(
            [script, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_console_lists_the_tasks_without_documents(console: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    listed = console("ls", "subtasks", "--include_path", str(ROOT / "task_configs"))
    assert all(f"|{name} " in listed.stdout for name in TASKS), listed.stderr


def test_console_runs_the_tasks(
    console: Callable[..., subprocess.CompletedProcess[str]], data: Path, tmp_path: Path
) -> None:
    options = ["--include_path", str(ROOT / "task_configs"), "--log_samples", "--output_path", str(tmp_path / "out")]
    ran = console("--model", "dummy", "--tasks", ",".join(TASKS), *options, RECALL_EVALS_DATA=str(data))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("contains_stderr_clustered|↓  |") == 3
    assert len(list((tmp_path / "out").rglob("samples_local_*.jsonl"))) == 3
    refused = console("--model", "dummy", "--tasks", "local_fda", *options)
    assert refused.returncode != 0
    assert "$RECALL_EVALS_DATA is not set" in refused.stderr.splitlines()[-1]
