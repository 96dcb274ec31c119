"""lm-eval's own swde, fda and squad_completion, from data on a hub as it was published, with a model from that hub."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
import pytest

import tiny
from hub import Fault, LoopbackHub
from recall_evals.models.checkpoint import find_checkpoint

pytestmark = pytest.mark.xdist_group("upstream tasks")  # one worker, or the fixture is made by each

MODEL = "hazyresearch/based-tiny"
REVISION = "refs/pr/1"
PUBLISHED = {
    "swde": "hazyresearch/based-swde-v2",
    "fda": "hazyresearch/based-fda",
    "squad_completion": "hazyresearch/based-squad",
}
DOCUMENTS = 6

Rows = list[dict[str, str]]


def forms(task: str) -> Rows:
    """Made-up documents in the schema of a published set: two documents, three questions to each."""
    rows = []
    for number in range(DOCUMENTS):
        unit, key = divmod(number, 3)
        page = f"Unit {unit} weighs {unit}7 kg. Its colour is grey {unit}. It was built in 19{unit}4."
        question = ["Weight", "Colour", "Built in"][key]
        value = [f"{unit}7 kg", f"grey {unit}", f"19{unit}4"][key]
        if task == "squad_completion":
            rows.append(
                {
                    "doc_id": f"Unit_{unit}#0",
                    "question_id": f"5728{number:020x}",
                    "title": f"Unit_{unit}",
                    "question": f"{question} of unit {unit}?",
                    "value": value,
                    "text": f"{page} {question} is",
                }
            )
        else:
            name = {"fda": f"K{unit:06d}.txt", "swde": ""}[task]
            text = f" {page}\n{question}: " if task == "fda" else f" {page} {question}:"
            rows.append({"doc_id": f"d{unit}", "file_name": name, "key": question, "value": f"{value} ", "text": text})
    return rows


def card(pattern: str) -> str:
    return (
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        f"  - split: validation\n    path: {pattern}\n---\n# A data set\n"
    )


def as_parquet(folder: Path, rows: Rows) -> None:
    """As `push_to_hub` leaves it: shards under data/, a card that names them and their features."""
    (folder / "data").mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "data" / "validation-00000-of-00001.parquet")
    (folder / "README.md").write_text(card("data/validation-*"))


def as_json_with_card(folder: Path, rows: Rows) -> None:
    folder.mkdir(parents=True)
    (folder / "validation.json").write_text(lines(rows))
    (folder / "README.md").write_text(card("validation.json"))


def as_jsonl_alone(folder: Path, rows: Rows) -> None:
    """The split is read off the file's name."""
    folder.mkdir(parents=True)
    (folder / "validation.jsonl").write_text(lines(rows))


def as_parquet_alone(folder: Path, rows: Rows) -> None:
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "validation.parquet")


def lines(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


WAYS: dict[str, Callable[[Path, Rows], None]] = {
    "parquet": as_parquet,
    "json": as_json_with_card,
    "jsonl-alone": as_jsonl_alone,
    "parquet-alone": as_parquet_alone,
}


def test_every_schema_in_every_way_then_offline(tmp_path: Path) -> None:
    datasets = {"hazyresearch/based-swde": tmp_path / "swde"}
    expected = {"hazyresearch/based-swde": {"validation": forms("swde")}}
    as_parquet(tmp_path / "swde", forms("swde"))
    for task, repository in PUBLISHED.items():
        for way, publish in WAYS.items():
            name = f"{repository}-{way}"
            datasets[name], expected[name] = tmp_path / name, {"validation": forms(task)}
            publish(datasets[name], forms(task))
    code = (
        "import json, datasets;"
        f"read = {{name: datasets.load_dataset(name, 'default') for name in {list(datasets)!r}}};"
        "print(json.dumps({name: {s: rows[s].to_list() for s in rows} for name, rows in read.items()}))"
    )
    with LoopbackHub(datasets=datasets) as hub:
        # The first connection for the data of one of them breaks off.
        hub.fault("GET */based-fda-parquet/resolve/*.parquet", Fault(cut_after=100, times=1))
        environment = hub.environment(tmp_path / "home")
        assert json.loads(run([sys.executable, "-c", code], environment, tmp_path)) == expected
        requests = len(hub.requests)
        offline = environment | {"HF_HUB_OFFLINE": "1"}
        assert json.loads(run([sys.executable, "-c", code], offline, tmp_path)) == expected
        assert len(hub.requests) == requests


class Evaluation(NamedTuple):
    """One command, run twice: with the hub, and offline with the cache that this left."""

    hub: LoopbackHub
    model: Path
    requests: list[int]
    results: list[dict[str, Any]]
    samples: list[dict[str, list[tuple[Any, ...]]]]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory, few_tasks: dict[str, str]) -> Iterator[Evaluation]:
    folder = tmp_path_factory.mktemp("hub")
    datasets = {}
    for (task, repository), publish in zip(
        PUBLISHED.items(), (as_parquet, as_json_with_card, as_jsonl_alone), strict=True
    ):
        datasets[repository] = folder / task
        publish(datasets[repository], forms(task))
    model = tiny.save(folder / "model", tiny.BASED, seed=1)
    other = tiny.save(folder / "other", tiny.BASED, seed=0)
    command = [str(Path(sys.executable).with_name("lm_eval")), "--model", "based", "--device", "cpu"]
    command += ["--model_args", f"pretrained={MODEL},revision={REVISION}", "--tasks", ",".join(PUBLISHED)]
    command += ["--batch_size", "4", "--log_samples", "--output_path"]
    with LoopbackHub(models={MODEL: {"main": other, REVISION: model}}, datasets=datasets) as hub:
        environment = hub.environment(folder / "home", **few_tasks)
        evaluation = Evaluation(hub, model, [], [], [])
        for name, variables in (("online", {}), ("offline", {"HF_HUB_OFFLINE": "1"})):
            run([*command, str(folder / name)], environment | variables, folder)
            evaluation.requests.append(len(hub.requests))
            evaluation.results.append(json.loads(next((folder / name).rglob("results_*.json")).read_text()))
            evaluation.samples.append({task: samples(folder / name, task) for task in PUBLISHED})
        yield evaluation


def run(command: list[str], environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def samples(folder: Path, task: str) -> list[tuple[Any, ...]]:
    text = next(folder.rglob(f"samples_{task}_*.jsonl")).read_text()
    logged = [json.loads(line) for line in text.splitlines()]
    return sorted((s["doc_id"], s["arguments"]["gen_args_0"]["arg_0"], s["target"], s["resps"][0][0]) for s in logged)


@pytest.mark.parametrize("task", PUBLISHED)
def test_upstream_task_reads_what_was_published(evaluation: Evaluation, task: str) -> None:
    assert evaluation.results[0]["results"][task]["sample_len"] == DOCUMENTS
    assert "contains,none" in evaluation.results[0]["results"][task]
    read = [(prompt, target) for _, prompt, target, _ in evaluation.samples[0][task]]
    assert read == [(row["text"].strip(), row["value"].strip()) for row in forms(task)]


def test_the_revision_that_was_asked_for_answers(evaluation: Evaluation) -> None:
    config = evaluation.results[0]["config"]
    assert config["revision"] == evaluation.hub.commit("models", MODEL, REVISION)
    assert config["content_hash"] == find_checkpoint(evaluation.model).content_hash()


def test_offline_gives_the_same_and_asks_for_nothing(evaluation: Evaluation) -> None:
    online, offline = evaluation.requests
    assert online == offline
    assert evaluation.samples[0] == evaluation.samples[1]
    for task in PUBLISHED:
        assert evaluation.results[0]["results"][task] == evaluation.results[1]["results"][task]
    hashes = [results["config"]["content_hash"] for results in evaluation.results]
    assert hashes[0] == hashes[1]
