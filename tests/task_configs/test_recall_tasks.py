"""The recall tasks as lm-eval asks them of one's own documents, with a tiny model."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

import tiny
from our_tasks import load, manager
from recall_evals.results.statistics import clustered_standard_error, standard_error
from recall_evals.task_configs.local.documents import DocumentsError
from recall_evals.task_configs.recall.cutting import TokenizerNotFoundError
from recall_evals.task_configs.recall.tasks import Local
from recall_rows import Rows, forms, passages, write

pytestmark = pytest.mark.xdist_group("recall tasks")  # one worker, or the fixtures are made by each

LOCAL = [f"local_{protocol}_{name}" for protocol in ("based", "jrt", "jrt_twice") for name in ("swde", "fda", "squad")]


def prompts(task: Any) -> list[str]:
    task.build_all_requests()
    return [instance.args[0] for instance in task.instances]


def test_a_tiny_model_answers_every_local_form(recall_data: Path, recall_model: Path) -> None:
    results = lm_eval.simple_evaluate(
        model="based",
        model_args=f"pretrained={recall_model},tokenizer={recall_model}",
        tasks=LOCAL,
        task_manager=manager({"context_length": 110, "answer_length": 50}),
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


def test_prompts_as_the_model_gets_them(recall_data: Path) -> None:
    assert prompts(load("local_based_fda")) == [row["text"] for row in forms()]
    assert prompts(load("local_based_squad")) == [row["text"] for row in passages()]
    # 60 characters: 30 before the key, of which "weight" has only 13, and the rest after; "grey 0 ." loses its blank.
    cut = load("local_jrt_fda", {"context_length": 110})
    assert prompts(cut)[:2] == [
        "Unit 0 has a weight of 07 kg. Its colour is x or grey 0. It. Weight:",
        " 0 has a weight of 07 kg. Its colour is x or grey 0. It was. Colour:",
    ]
    raw = load("local_jrt_fda", {"context_length": 110, "clean_up_spaces": False})
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


def test_counts_of_what_is_out_of_the_ordinary(recall_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = forms()
    rows[0]["value"] = "not there"
    rows[1]["text"] = "colour: "
    write(recall_data / "fda", rows)
    task = load("local_jrt_fda")
    assert "leaves out 1 of 12 rows" in caplog.text
    # `grey 0` isn't in the second row's text either.
    counts = {"rows_dropped": 1, "answers_absent": 2, "answers_empty": 0, "documents_empty": 0}
    assert counts.items() <= task.config.metadata.items()
    assert [doc["value"] for doc in task.eval_docs] == [row["value"] for row in rows if row["value"] != "x"]


def test_clusters_are_documents(recall_data: Path) -> None:
    def cluster(name: str, row: dict[str, Any]) -> str:
        return load(name).process_results(row, ["x"])["contains_stderr_clustered"][1]

    first, second, third, fourth = forms()[:4]
    assert cluster("local_jrt_fda", first) == "d0"
    for row in (first, second, third, fourth):
        del row["doc_id"]
    same = [cluster("local_based_swde", row) for row in (first, second, third, fourth)]
    assert same[0] == same[1] == same[2] != same[3]


def test_standard_errors_of_mixed_scores(recall_data: Path) -> None:
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


def test_scores_are_the_best_over_labels_as_they_stand(recall_data: Path) -> None:
    based, jrt = load("local_based_fda"), load("local_jrt_squad")
    row = forms()[1]
    assert based.process_results(row, ["GREY 0 it is"])["contains"] == 1
    assert based.process_results(row, ["grey 0."])["contains"] == 0  # the label ends with a blank
    assert jrt.doc_to_target(row) == "grey 0 "
    scores = jrt.process_results(row, ["a grey 0."])
    assert (scores["contains"], scores["exact"], scores["f1"]) == (0, 1, 1.0)


def test_cached_requests_follow_the_cut(recall_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache: ModuleType = sys.modules["lm_eval.caching.cache"]
    monkeypatch.setattr(cache, "PATH", str(tmp_path / "requests"))
    asked = []
    for length in (110, 90, 110):
        task = load("local_jrt_fda", {"context_length": length})
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
def test_bad_metadata(recall_data: Path, name: str, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises((DocumentsError, TokenizerNotFoundError), match=message):
        load(name, metadata)


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
def test_bad_local_rows(recall_data: Path, name: str, rows: Rows, message: str) -> None:
    write(recall_data / name.rpartition("_")[2], rows)
    with pytest.raises(DocumentsError, match=message):
        load(f"local_{name}")


@pytest.mark.skipif(
    not (tiny.SHARED / "data" / "gpt2").is_dir(), reason="no ../shared/data: would cut real pages by GPT-2's tokens"
)
@pytest.mark.parametrize("name", ["local_jrt_swde", "local_jrt_fda"])
def test_real_rows_are_cut_to_the_budget(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tiny.SHARED / "data"))
    task = load(name, {"cut_tokenizer": str(tiny.SHARED / "data" / "gpt2"), "context_length": 300})
    for doc in list(task.eval_docs)[:40]:
        prompt = task.doc_to_text(doc)
        question = f". {doc['key'][0].upper()}{doc['key'][1:]}:"
        assert prompt.endswith(question)
        kept = prompt.removesuffix(question)
        assert len(task.cut.tokens(kept)) <= 251  # what was cut through may take a token more
        assert (
            doc["key"].lower() in kept.lower() or task.cut.text(task.cut.tokens(doc["value"])).lower() in kept.lower()
        )


def test_local_rows_keep_their_own_context(recall_data: Path) -> None:
    rows = [{**row, "context": "Another passage."} for row in passages()]
    write(recall_data / "squad", rows)
    task = load("local_jrt_twice_squad")
    assert isinstance(task, Local)
    assert prompts(task)[0].startswith("What is its weight? Another passage.\nUnit 0")


def test_an_answer_that_the_cut_lost_is_told_from_one_that_stands_nowhere(recall_data: Path) -> None:
    task = load(
        "local_jrt_twice_fda", {"context_length": 70}
    )  # ten characters before the key's first place, ten after it
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
