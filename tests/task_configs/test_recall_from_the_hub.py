"""The recall tasks as lm-eval asks them of the published data sets, from a hub on loopback."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub import LoopbackHub
from recall_evals.task_configs.recall.protocols import FORMS
from recall_rows import publish, published

pytestmark = pytest.mark.xdist_group("recall tasks")  # one worker, or the fixtures are made by each

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "task_configs" / "recall"
HUB_FORMS = ["swde", "fda", "squad", "nq_512", "nq_1024", "nq_2048", "triviaqa", "drop"]


ASK = """
import json, sys
import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager


class Answerer(LM):
    def generate_until(self, requests, disable_tqdm=False):
        return [f" it is {request.doc.get('value', 'another')}" for request in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


folder, names, refused = json.loads(sys.argv[1])
manager = TaskManager(include_path=folder, include_defaults=False)
found = lm_eval.simple_evaluate(model=Answerer(), tasks=names, task_manager=manager, log_samples=True)
errors = {}
for path in refused:
    try:
        manager.load(path)
    except (OSError, ValueError) as error:
        errors[path] = str(error)
prompts = {name: [s["arguments"][0] for s in samples] for name, samples in found["samples"].items()}
metadata = {name: config["metadata"] for name, config in found["configs"].items()}
keys = ("results", "groups")
print(json.dumps([{key: found[key] for key in keys}, prompts, metadata, errors], default=str))
"""


@pytest.fixture(scope="module")
def from_the_hub(tmp_path_factory: pytest.TempPathFactory, recall_model: Path) -> tuple[Any, ...]:
    """One run over every group and NQ, and what was said of what can't be asked; with the hub's commits."""
    home = tmp_path_factory.mktemp("hub")
    repositories: dict[str, Any] = {}
    for name in HUB_FORMS:
        config = yaml.safe_load((FOLDER / "jrt" / f"recall_jrt_{name}.yaml").read_text())
        repositories[config["dataset_path"]] = publish(home / name, published(name))
    renamed = [{"passage" if key == "context" else key: row[key] for key in row} for row in published("drop")]
    empty = [{**row, "answers": []} for row in published("drop")]
    repositories["hazyresearch/based_drop"] = {
        "main": home / "drop",
        "changed": publish(home / "changed", renamed),
        "empty": publish(home / "empty", empty),
    }
    refused = []
    for revision in ("changed", "empty", "absent"):
        refused.append(home / f"{revision}.yaml")
        refused[-1].write_text(
            f"include: {FOLDER / 'jrt' / 'recall_jrt_drop.yaml'}\ntask: {revision}\n"
            f"dataset_kwargs:\n  revision: {revision}\n"
        )
    gone = home / "gone.yaml"
    gone.write_text(
        f"include: {FOLDER / 'based' / 'recall_based_fda.yaml'}\ntask: gone\ndataset_path: hazyresearch/gone\n"
    )
    names = ["recall", "recall_based", "recall_jrt", "recall_jrt_twice"]
    names += [f"recall_{protocol}_nq_{length}" for protocol in ("jrt", "jrt_twice") for length in (512, 2048)]
    arguments = json.dumps([str(ROOT / "task_configs"), names, [str(path) for path in [*refused, gone]]])
    with LoopbackHub(models={"openai-community/gpt2": recall_model}, datasets=repositories) as hub:
        environment = hub.environment(home / "home")
        environment.pop("RECALL_EVALS_GPT2", None)
        command = [sys.executable, "-c", ASK, arguments]
        done = subprocess.run(
            command, env=environment, cwd=home, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        commit = hub.commit("datasets", "hazyresearch/based-fda")
    found, asked, metadata, errors = json.loads(done.stdout.splitlines()[-1])
    return found, asked, metadata, {Path(path).stem: message for path, message in errors.items()}, commit


def test_every_published_set_is_asked(from_the_hub: tuple[Any, ...]) -> None:
    found, asked, metadata, _, commit = from_the_hub
    assert len(asked) == 3 + 3 + 8 + 8
    for name, texts in asked.items():
        config = metadata[name]
        questions = name.removeprefix("recall_").removeprefix("based_").removeprefix("jrt_").removeprefix("twice_")
        form, rows = FORMS[config["protocol"]][config["questions"]], published(questions)
        dropped = "jrt" in name and config["questions"] not in ("triviaqa", "drop")
        assert config["rows_dropped"] == dropped
        # Short documents are whole after the cut, but for the blank before a dot.
        rows = [row for row in rows if not dropped or (row.get("value") or row["answers"][0]) != "x"]
        column = "context" if "answers" in rows[0] else "text"
        if "jrt" in name:
            rows = [{**row, column: row[column].strip().replace(" .", ".")} for row in rows]
        assert [text for text, _ in texts] == [form.prompt(row) for row in rows]
        until, tokens = (["\n\n"], 256) if name == "recall_squad" else (["\n"], 48)  # as lm-eval's own
        assert all((sent["until"], sent["max_gen_toks"]) == (until, tokens) for _, sent in texts)
        assert found["results"][name]["contains,none"] == 1
        assert found["results"][name]["contains_stderr_clustered,none"] == 0
        assert ("f1,none" in found["results"][name]) == ("jrt" in name and questions in ("squad", "triviaqa"))
    assert metadata["recall_based_fda"]["documents"] == f"hazyresearch/based-fda@{commit}"
    assert metadata["recall_jrt_nq_512"]["context_length"] == 2000
    assert asked["recall_jrt_triviaqa"][0][0].startswith("Unit 0 has")
    for group in ("recall", "recall_based", "recall_jrt", "recall_jrt_twice"):
        assert found["groups"][group]["contains,none"] == 1


def test_what_a_published_set_lacks_is_named(from_the_hub: tuple[Any, ...]) -> None:
    errors = from_the_hub[3]
    assert "hazyresearch/based_drop@" in errors["changed"]
    assert "has no column `context`: it has `doc_id`, `passage`, `question`" in errors["changed"]
    assert "row 1: `answers` is []: it must be a list of one or more texts" in errors["empty"]
    assert "Data set hazyresearch/based_drop@absent can't be had" in errors["absent"]
    assert "Data set hazyresearch/gone@main can't be had" in errors["gone"]
    assert all("\n" not in message for message in errors.values())


def test_without_the_hub_the_missing_tokenizer_is_named(recall_data: Path, tmp_path: Path) -> None:
    code = "from recall_evals.task_configs.recall.cutting import load_gpt2; load_gpt2()"
    with LoopbackHub() as hub:
        environment = hub.environment(tmp_path / "home", HF_HUB_OFFLINE="1", RECALL_EVALS_GPT2="")
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    last = done.stderr.splitlines()[-1]
    assert "openai-community/gpt2/tokenizer.json is not in the hub's cache and can't be fetched" in last
    assert "Set $RECALL_EVALS_GPT2, or `cut_tokenizer`" in last
