"""The recall tasks as lm-eval runs them: one's own documents with a tiny model, the published sets from a hub."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

import tiny
from hub import LoopbackHub
from recall_evals.results.statistics import clustered_standard_error, standard_error
from recall_evals.task_configs.local.documents import DocumentsError
from recall_evals.task_configs.recall.cutting import TokenizerNotFoundError
from recall_evals.task_configs.recall.protocols import FORMS
from recall_evals.task_configs.recall.tasks import Local

pytestmark = pytest.mark.xdist_group("recall tasks")  # one worker, or the fixtures are made by each

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "task_configs" / "recall"
Rows = list[dict[str, Any]]
LOCAL = [f"local_{protocol}_{name}" for protocol in ("based", "jrt", "jrt_twice") for name in ("swde", "fda", "squad")]
HUB_FORMS = ["swde", "fda", "squad", "nq_512", "nq_1024", "nq_2048", "triviaqa", "drop"]


def forms() -> Rows:
    """Four pages of three questions; the third page's second answer has one character."""
    rows = []
    for number in range(12):
        page, key = divmod(number, 3)
        question = ["weight", "colour", "built in"][key]
        value = [f"{page}7 kg", "x" if page == 2 else f"grey {page} ", f"19{page}4"][key]
        text = f" Unit {page} has a weight of {page}7 kg. Its colour is x or grey {page} . It was built in 19{page}4."
        rows.append({"doc_id": f"d{page}", "key": question, "value": value, "text": f"{text}\n{question}: "})
    return rows


def passages() -> Rows:
    rows = []
    for row in forms():
        passage = row["text"].strip().rpartition("\n")[0]
        text = f"{passage}\nIts {row['key']} is "
        rows.append({"question": f"What is its {row['key']}?", "value": row["value"], "text": text})
    return rows


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, whose tokenizer of bytes also stands in for GPT-2's."""
    return tiny.save(tmp_path_factory.mktemp("model") / "based", tiny.BASED, seed=1)


@pytest.fixture
def data(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$RECALL_EVALS_DATA with twelve rows of each kind, squad's without `doc_id`, and a tokenizer to cut with."""
    write(tmp_path / "swde", forms())
    write(tmp_path / "fda", forms())
    write(tmp_path / "squad", passages())
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tmp_path))
    monkeypatch.setenv("RECALL_EVALS_GPT2", str(model))
    return tmp_path


def manager(**metadata: Any) -> TaskManager:
    return TaskManager(include_path=str(ROOT / "task_configs"), include_defaults=False, metadata=metadata)


def load(name: str, **metadata: Any) -> Any:
    return manager(**metadata).load(name)["tasks"][name]


def prompts(task: Any) -> list[str]:
    task.build_all_requests()
    return [instance.args[0] for instance in task.instances]


def test_a_tiny_model_answers_every_local_form(data: Path, model: Path) -> None:
    results = lm_eval.simple_evaluate(
        model="based",
        model_args=f"pretrained={model},tokenizer={model}",
        tasks=LOCAL,
        task_manager=manager(context_length=110, answer_length=50),
        log_samples=True,
        device="cpu",
        limit=4,
        batch_size=36,
    )
    assert results is not None
    for name in LOCAL:
        scores, samples = results["results"][name], results["samples"][name]
        assert len(samples) == 4
        contained = [sample["contains"] for sample in samples]
        pages = [sample["doc"]["text"].strip()[:7] for sample in samples]
        assert scores["contains,none"] == pytest.approx(sum(contained) / len(samples))
        assert scores["contains_stderr,none"] == pytest.approx(standard_error(contained))
        expected = clustered_standard_error(contained, pages)
        assert scores["contains_stderr_clustered,none"] == pytest.approx(expected)
        assert ("exact,none" in scores) == ("f1_stderr,none" in scores) == ("jrt" in name and "squad" in name)
        for sample in samples:
            place, prompt = sample["doc"]["answer_place"], sample["arguments"][0][0]
            assert place["prompt_characters"] == len(prompt)
            assert (place["depth"] is not None) == (place["in_prompt"] > 0) == (sample["target"].strip() in prompt)
            assert place["in_document"] == 1, "also where the prompt lost it, or has it twice"
            assert ("twice" in name) or place["in_prompt"] <= 1
        arguments = samples[0]["arguments"][0][1]
        assert (arguments["until"], arguments["max_gen_toks"]) == (["\n"], 48)
        metadata = results["configs"][name]["metadata"]
        assert f"local_{metadata['protocol'].replace('-', '_')}_{metadata['questions']}" == name
        assert metadata["rows_dropped"] == ("jrt" in name)
        assert ("cut_tokenizer_sha256" in metadata) == ("jrt" in name)
        assert len(metadata["documents_sha256"]) == 64


def test_prompts_as_the_model_gets_them(data: Path) -> None:
    assert prompts(load("local_based_fda")) == [row["text"] for row in forms()]
    assert prompts(load("local_based_squad")) == [row["text"] for row in passages()]
    # 60 characters: 30 before the key, of which "weight" has only 13, and the rest after; "grey 0 ." loses its blank.
    cut = load("local_jrt_fda", context_length=110)
    assert prompts(cut)[:2] == [
        "Unit 0 has a weight of 07 kg. Its colour is x or grey 0. It. Weight:",
        " 0 has a weight of 07 kg. Its colour is x or grey 0. It was. Colour:",
    ]
    raw = load("local_jrt_fda", context_length=110, clean_up_spaces=False)
    assert prompts(raw)[0] == "Unit 0 has a weight of 07 kg. Its colour is x or grey 0 . It. Weight:"
    assert prompts(load("local_jrt_twice_swde"))[0] == (
        "Information about Weight. Unit 0 has a weight of 07 kg. Its colour is x or grey 0. It was built in 1904.\n"
        "Unit 0 has a weight of 07 kg. Its colour is x or grey 0. It was built in 1904. Weight:"
    )
    # Without a column `context`, what is read first is the text before its last newline: whole, and not cleaned.
    page = "Unit 0 has a weight of 07 kg. Its colour is x or grey 0"
    assert prompts(load("local_jrt_twice_squad"))[0] == (
        f"What is its weight? {page} . It was built in 1904.\n{page}. It was built in 1904.\nIts weight is"
    )


def test_counts_of_what_is_out_of_the_ordinary(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = forms()
    rows[0]["value"] = "not there"
    rows[1]["text"] = "colour: "
    write(data / "fda", rows)
    task = load("local_jrt_fda")
    assert "leaves out 1 of 12 rows" in caplog.text
    # `grey 0` isn't in the second row's text either.
    counts = {"rows_dropped": 1, "answers_absent": 2, "answers_empty": 0, "documents_empty": 0}
    assert counts.items() <= task.config.metadata.items()
    assert [doc["value"] for doc in task.eval_docs] == [row["value"] for row in rows if row["value"] != "x"]


def test_clusters_are_documents(data: Path) -> None:
    def cluster(name: str, row: dict[str, Any]) -> str:
        return load(name).process_results(row, ["x"])["contains_stderr_clustered"][1]

    first, second, third, fourth = forms()[:4]
    assert cluster("local_jrt_fda", first) == "d0"
    for row in (first, second, third, fourth):
        del row["doc_id"]
    same = [cluster("local_based_swde", row) for row in (first, second, third, fourth)]
    assert same[0] == same[1] == same[2] != same[3]


def test_standard_errors_of_mixed_scores(data: Path) -> None:
    class RightOnThePagesOfAnOddNumber(LM):
        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            return [request.doc["value"] if re.search("Unit [13]", request.args[0]) else "" for request in requests]

        def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
            raise NotImplementedError

    tasks = ["local_jrt_squad", "local_jrt_twice_fda"]
    results = lm_eval.simple_evaluate(RightOnThePagesOfAnOddNumber(), tasks=tasks, task_manager=manager())
    assert results is not None
    scores, pages = [0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    for name in tasks:
        found = results["results"][name]
        assert found["contains,none"] == pytest.approx(6 / 11)
        assert found["contains_stderr,none"] == pytest.approx(standard_error(scores))
        expected = clustered_standard_error(scores, pages)
        assert expected > 1.5 * standard_error(scores)
        assert found["contains_stderr_clustered,none"] == pytest.approx(expected)
    assert results["results"]["local_jrt_squad"]["f1_stderr,none"] == pytest.approx(standard_error(scores))
    higher = {"contains": True, "exact": True, "f1": True, "contains_stderr_clustered": False}
    assert results["higher_is_better"]["local_jrt_squad"] == higher


def test_scores_are_the_best_over_labels_as_they_stand(data: Path) -> None:
    based, jrt = load("local_based_fda"), load("local_jrt_squad")
    row = forms()[1]
    assert based.process_results(row, ["GREY 0 it is"])["contains"] == 1
    assert based.process_results(row, ["grey 0."])["contains"] == 0  # the label ends with a blank
    assert jrt.doc_to_target(row) == "grey 0 "
    scores = jrt.process_results(row, ["a grey 0."])
    assert (scores["contains"], scores["exact"], scores["f1"]) == (0, 1, 1.0)


def test_cached_requests_follow_the_cut(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache: ModuleType = sys.modules["lm_eval.caching.cache"]
    monkeypatch.setattr(cache, "PATH", str(tmp_path / "requests"))
    asked = []
    for length in (110, 90, 110):
        task = load("local_jrt_fda", context_length=length)
        task.build_all_requests(cache_requests=True)
        asked.append([instance.args[0] for instance in task.instances])
    assert asked[0] == asked[2] != asked[1]
    assert len(list((tmp_path / "requests").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "metadata", "message"),
    [
        ("local_jrt_fda", {"context_length": 50}, "`context_length` 50 and `answer_length` 50 leave no tokens"),
        ("local_jrt_fda", {"context_length": "long"}, "`context_length` 'long'.*whole numbers, such as 1000 and 50"),
        ("local_jrt_fda", {"protocol": "jrt-thrice"}, "no protocol 'jrt-thrice'.*one of lm-eval-v1/swde"),
        ("local_based_fda", {"questions": "nq"}, "no protocol 'based' with questions 'nq'"),
        ("local_jrt_fda", {"cut_tokenizer": "/nowhere"}, "no file /nowhere. Set .RECALL_EVALS_GPT2"),
    ],
)
def test_bad_metadata(data: Path, name: str, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises((DocumentsError, TokenizerNotFoundError), match=message):
        load(name, **metadata)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("jrt_fda", [{"text": "t", "value": "vv"}], "fda/validation.jsonl has no column `key`: it has `text`, `value`"),
        ("jrt_fda", [{"text": "t", "value": "vv", "key": None}], "row 1: `key` is of type NoneType, not text"),
        ("jrt_fda", [{"text": "t", "value": "vv", "key": "k"}], "nothing to ask: .* at most one character"),
        ("jrt_twice_squad", [{"text": "t", "value": "vv"}], "has no column `question`: it has `text`, `value`"),
        ("jrt_twice_squad", [{"text": "t", "value": "v", "question": " "}], "row 1: `question` is empty"),
    ],
)
def test_bad_local_rows(data: Path, name: str, rows: Rows, message: str) -> None:
    write(data / name.rpartition("_")[2], rows)
    with pytest.raises(DocumentsError, match=message):
        load(f"local_{name}")


@pytest.mark.skipif(
    not (tiny.SHARED / "data" / "gpt2").is_dir(), reason="no ../shared/data: would cut real pages by GPT-2's tokens"
)
@pytest.mark.parametrize("name", ["local_jrt_swde", "local_jrt_fda"])
def test_real_rows_are_cut_to_the_budget(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tiny.SHARED / "data"))
    task = load(name, cut_tokenizer=str(tiny.SHARED / "data" / "gpt2"), context_length=300)
    for doc in list(task.eval_docs)[:40]:
        prompt = task.doc_to_text(doc)
        question = f". {doc['key'][0].upper()}{doc['key'][1:]}:"
        assert prompt.endswith(question)
        kept = prompt.removesuffix(question)
        assert len(task.cut.tokens(kept)) <= 251  # what was cut through may take a token more
        assert (
            doc["key"].lower() in kept.lower() or task.cut.text(task.cut.tokens(doc["value"])).lower() in kept.lower()
        )


# -- the published sets -------------------------------------------------------------------------------------------


def published(questions: str) -> Rows:
    """Made-up rows with the columns of a published set."""
    if questions in ("swde", "fda"):
        summary = "Summary of information above...\n" if questions == "swde" else ""
        rows = [{**row, "file_name": ""} for row in forms()]
        return [{**row, "text": row["text"].replace("\n", f"\n\n{summary}", 1)} for row in rows]
    if questions == "squad":
        return [
            {**row, "doc_id": f"p{n}", "context": row["text"].partition("\n")[0]} for n, row in enumerate(passages())
        ]
    marks = "[DOC] [TLE] " if questions == "triviaqa" else ""
    return [
        {
            "doc_id": str(number),
            "context": f"{marks}{row['text'].strip().rpartition(chr(10))[0]} {row['key']}?",
            "question": f"{row['key']}?",
            "orig_question": f"Which {row['key']}?",
            "answers": [row["value"], "another"],
        }
        for number, row in enumerate(forms())
    ]


def publish(folder: Path, rows: Rows) -> Path:
    """As one file, with a card that names it."""
    write(folder, rows)
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: validation\n    path: validation.jsonl\n---\n"
    )
    (folder / "README.md").write_text(card)
    return folder


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
def from_the_hub(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Any, ...]:
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
    with LoopbackHub(models={"openai-community/gpt2": model}, datasets=repositories) as hub:
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


def test_without_the_hub_the_missing_tokenizer_is_named(data: Path, tmp_path: Path) -> None:
    code = "from recall_evals.task_configs.recall.cutting import load_gpt2; load_gpt2()"
    with LoopbackHub() as hub:
        environment = hub.environment(tmp_path / "home", HF_HUB_OFFLINE="1", RECALL_EVALS_GPT2="")
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    last = done.stderr.splitlines()[-1]
    assert "openai-community/gpt2/tokenizer.json is not in the hub's cache and can't be fetched" in last
    assert "Set $RECALL_EVALS_GPT2, or `cut_tokenizer`" in last


# -- the files ----------------------------------------------------------------------------------------------------


def test_names_say_protocol_and_data_set() -> None:
    files = [path for folder in FOLDER.iterdir() if folder.is_dir() for path in folder.glob("*.yaml")]
    assert len(files) == 22 + 9
    for path in files:
        config = yaml.safe_load(path.read_text())
        protocol = config["metadata"]["protocol"]
        assert path.stem == config["task"]
        assert path.parent.name == protocol.replace("-", "_")
        prefix = "" if protocol == "lm-eval-v1" else f"{path.parent.name}_"
        source, name = path.stem.split("_", 1)
        name = name.removeprefix(prefix)
        assert config["metadata"]["questions"] == name.split("_")[0]
        tail = config["dataset_path"].removeprefix("hazyresearch/based").lstrip("-_").removesuffix("-v2")
        assert (tail, "/" in config["dataset_path"]) == (name, source == "recall")


def test_groups_hold_tasks_that_are_there() -> None:
    upstream = Path(lm_eval.__file__).parent / "tasks"
    theirs = [str(upstream / folder) for folder in ("arc", "hellaswag", "lambada", "piqa", "winogrande")]
    manager = TaskManager(include_path=[str(ROOT / "task_configs"), *theirs], include_defaults=False)
    for path in FOLDER.glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        assert path.stem == config["group"]
        assert set(config["task"]) <= set(manager.all_tasks), path


def test_the_mean_of_recall_lm_as_the_readme_reads_it() -> None:
    readme = (FOLDER / "README.md").read_text()
    assert "(4 · acc of recall_lm_acc + 2 · acc_norm of recall_lm_acc_norm) / 6" in readme
    members = {name: yaml.safe_load((FOLDER / f"recall_lm_{name}.yaml").read_text()) for name in ("acc", "acc_norm")}
    assert {name: len(config["task"]) for name, config in members.items()} == {"acc": 4, "acc_norm": 2}
    for name, config in members.items():
        (aggregated,) = config["aggregate_metric_list"]
        assert (aggregated["metric"], aggregated["weight_by_size"]) == (name, False)


def test_loading_a_task_takes_no_torch() -> None:
    code = (
        "import sys; import recall_evals.task_configs.recall.protocols, recall_evals.task_configs.recall.cutting;"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_local_rows_keep_their_own_context(data: Path) -> None:
    rows = [{**row, "context": "Another passage."} for row in passages()]
    write(data / "squad", rows)
    task = load("local_jrt_twice_squad")
    assert isinstance(task, Local)
    assert prompts(task)[0].startswith("What is its weight? Another passage.\nUnit 0")


def test_an_answer_that_the_cut_lost_is_told_from_one_that_stands_nowhere(data: Path) -> None:
    task = load("local_jrt_twice_fda", context_length=70)  # ten characters before the key's first place, ten after it
    row = forms()[1] | {"value": "grey 0"}
    places = []
    for asked in (row, row | {"value": "colour i"}, row | {"value": "blue"}):
        doc = dict(asked)
        task.process_results(doc, ["x"])
        places.append(doc.pop("answer_place"))
        assert doc == asked
    prompt = task.doc_to_text(row)
    assert prompt == "Information about Colour. 7 kg. Its colour is .\n7 kg. Its colour is . Colour:"
    nowhere = {"prompt_characters": len(prompt), "distance_characters": None, "depth": None, "in_prompt": 0}
    assert places[0] == nowhere | {"in_document": 1}
    assert places[1] == {
        "prompt_characters": len(prompt),
        "distance_characters": len("s . Colour:"),
        "depth": 36 / len(prompt),
        "in_prompt": 2,
        "in_document": 1,
    }
    assert places[2] == nowhere | {"in_document": 0}
