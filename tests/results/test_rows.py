"""Rows: read from lm-eval's files, kept as JSON lines, told apart, and what keeps two from being compared."""

import dataclasses
import json
import math
import random
import shutil

import pytest

import runs
from recall_evals.results.published_rows import published_for, published_rows
from recall_evals.results.row import Row
from recall_evals.results.rows import (
    RowsError,
    append_rows,
    latest,
    main_rows,
    mismatches,
    read_rows,
    read_runs,
    short_names,
)
from recall_evals.results.statistics import clustered_standard_error

SCORES = [1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0]
SAMPLES = [runs.sample(i, score) for i, score in enumerate(SCORES)]


@pytest.fixture
def run(tmp_path):
    return runs.write(tmp_path / "out", {"fda": SAMPLES})


def test_a_row_of_any_backend(run):
    """`contains` of lm-eval's own `fda` has no error there; it comes from the samples, clustered by their doc_id."""
    (row,) = read_runs([run]).rows
    assert (row.model, row.task, row.metric, row.filter) == ("org/tiny", "fda", "contains", "none")
    assert row.value == 5 / 12 and row.n == 12 and row.clustered and row.higher_is_better
    assert row.error == pytest.approx(clustered_standard_error(SCORES, [i // 4 for i in range(12)]))
    assert row.reported["backend"] == "hf" and row.reported["max_length"] == 64
    expected = {"task": "fda", "version": 1, "metric": "contains", "filter": "none", "shots": 0, "n": 12, "limit": None}
    assert expected.items() <= row.must_match.items()
    assert row.must_match["truncation"] == {"max_length": 64, "cut_prompts": None}


@pytest.mark.parametrize(
    ("environment", "hardware"),
    [
        (
            "GPU models and configuration: GPU 0: NVIDIA H100 80GB HBM3\n\nCPU:\nModel name:  EPYC",
            "NVIDIA H100 80GB HBM3",
        ),
        ("GPU models and configuration: \nGPU 0: H200\nGPU 1: H200\n\nNvidia driver version: 5", "2 x H200"),
        ("GPU models and configuration: No CUDA\nCPU:\nModel name:        EPYC", "EPYC"),
    ],
)
def test_the_machine_as_torch_tells_it(run, environment, hardware):
    (file,) = run.rglob("results_*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pretty_env_info": environment}))
    (row,) = read_runs([run]).rows
    assert row.reported["hardware"] == hardware


def test_the_fingerprint_is_of_prompts_and_not_of_their_order_or_answers(tmp_path):
    def fingerprint(samples, name):
        (row,) = read_runs([runs.write(tmp_path / name, {"fda": samples})]).rows
        return row.must_match["samples"]

    shuffled = [runs.sample(i, 1 - SCORES[i], answer="no") for i in range(12)]
    random.Random(0).shuffle(shuffled)
    assert fingerprint(SAMPLES, "a") == fingerprint(shuffled, "b")
    for field in ("text", "value"):
        changed = [runs.sample(i, 0, **({field: "other"} if i == 3 else {})) for i in range(12)]
        assert fingerprint(SAMPLES, "a") != fingerprint(changed, field)


def test_a_limit_counts_as_what_it_came_out_to_be(tmp_path):
    def limit(given, original):
        counts = {"n-samples": {"fda": {"original": original, "effective": 12}}}
        (row,) = read_runs([runs.write(tmp_path / "out", {"fda": SAMPLES}, limit=given, top=counts)]).rows
        return row.must_match["limit"]

    assert [limit(None, 12), limit(500.0, 12), limit(12.0, 100), limit(0.12, 100)] == [None, None, 12, 12]


def test_reading_twice_gives_each_row_once(run, tmp_path):
    assert len(read_runs([run, run, run.parent]).rows) == 1
    rows = read_runs([run]).rows
    file = tmp_path / "kept" / "rows.jsonl"
    file.parent.mkdir()
    assert [append_rows(file, rows), append_rows(file, rows)] == [1, 0]
    assert read_rows(file).rows == rows  # the paths too, though they are kept relative
    assert str(tmp_path) not in file.read_text()
    assert len(read_runs([run, file]).rows) == 1
    moved = shutil.copytree(run, tmp_path / "moved")
    assert len(read_runs([run, moved]).rows) == 1
    (alone := tmp_path / "far" / "away").mkdir(parents=True)
    shutil.copy(file, alone)  # its samples are gone, wherever they still are those count
    assert read_runs([alone]).samples == []
    assert read_runs([alone, run]).samples == read_runs([run]).samples != []


def test_rows_survive_a_line_cut_short(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [Row("m", "t", "contains", i / 4, must_match={"limit": None}) for i in range(4)]
    append_rows(file, rows[:2])
    file.write_bytes(file.read_bytes()[:-30])
    reading = read_rows(file)
    assert [row.value for row in reading.rows] == [0.0]
    assert len(reading.problems) == 1 and "line 2 is no row" in reading.problems[0]
    assert append_rows(file, rows) == 3
    assert sorted(row.value for row in read_rows(file).rows) == [0.0, 0.25, 0.5, 0.75]


def test_rows_without_a_number_are_kept_as_null(tmp_path):
    file = tmp_path / "rows.jsonl"
    append_rows(file, [Row("m", "t", "contains", math.nan, failure="out of memory")])
    assert json.loads(file.read_text())["value"] is None
    (row,) = read_rows(file).rows
    assert math.isnan(row.value) and math.isnan(row.error) and row.failure == "out of memory"
    for name, value in (("task", None), ("more", 1), ("must_match", []), ("n", "3"), ("failure", 7), ("samples", {})):
        file.write_text(json.dumps(Row("m", "t", "c", 0.5).to_json() | {name: value}) + "\n")
        (problem,) = read_rows(file).problems
        assert "line 1 is no row" in problem and name in problem


def test_bad_files_are_listed_and_the_others_read(run, tmp_path):
    (run / "results_2027-01-01T00-00-00.000001.json").write_text('{"results": {')
    (run / "notes.json").write_text("[1]")
    (run / "data.jsonl").write_text('{"a": 1}\n')
    (run / "plot.png").write_bytes(b"png")
    (run / "samples_fda_2027-01-01T00-00-00.000009.jsonl").write_text("")
    (run / "results_2027-01-01T00-00-00.000003.json").write_text(
        json.dumps({"results": {"fda": {"contains,none": 1.0}}, "configs": {"fda": 3}})
    )
    reading = read_runs([run])
    assert len(reading.rows) == 1
    assert sorted(file.name for file in reading.unknown) == ["data.jsonl", "notes.json", "plot.png"]
    told = "\n".join(reading.problems)
    assert "000001.json isn't whole JSON" in told and "000003.json is no results file" in told
    assert "000009.jsonl has no results file of its moment" in told
    assert len(reading.problems) == 3
    with pytest.raises(RowsError, match="no such file or folder"):
        read_runs([tmp_path / "absent"])


def test_samples_cut_in_a_line_and_scores_that_are_no_numbers(run):
    (file,) = run.glob("samples_*")
    file.write_bytes(file.read_bytes()[:-40])
    reading = read_runs([run])
    assert "line 12 isn't a whole JSON object" in reading.problems[0]
    assert "11 of 12 prompts" in reading.problems[1]
    (row,) = reading.rows
    assert "samples" not in row.must_match and row.value == 5 / 12 and math.isnan(row.error)
    (results,) = run.glob("results_*")
    results.write_text(results.read_text().replace(str(5 / 12), "NaN"))
    reading = read_runs([run])
    assert math.isnan(reading.rows[0].value) and "contains is nan, no number" in "\n".join(reading.problems)


def test_what_keeps_rows_from_being_compared():
    a = Row("a", "fda", "contains", 0.5, must_match={"n": 3, "limit": None, "samples": "ab" * 32})
    assert mismatches(a, dataclasses.replace(a, must_match={"limit": None, "version": 2})) == []
    other = dataclasses.replace(a, must_match={"n": 4, "limit": 4, "samples": "cd" * 32})
    assert mismatches(a, other) == ["limit: none and 4", "n: 3 and 4", f"samples: {'ab' * 6}... and {'cd' * 6}..."]

    def read(max_length, cut):
        return dataclasses.replace(a, must_match={"truncation": {"max_length": max_length, "cut_prompts": cut}})

    assert mismatches(read(2048, 0), read(4096, 0)) == []  # neither cut any
    assert mismatches(read(2048, 3), read(2048, None)) == []  # both cut at the same length
    assert mismatches(read(2048, 3), read(4096, 3)) and mismatches(read(2048, None), read(4096, None))
    (told,) = mismatches(read(2048, 0), read(4096, None))
    assert told == "truncation: max_length 2048, cut_prompts 0 and max_length 4096, cut_prompts none"


def test_names_that_tell_models_apart():
    def names(*rows):
        return list(short_names({str(i): row for i, row in enumerate(rows)}).values())

    def row(model, **reported):
        return Row(model, "t", "contains", 0.5, reported=reported)

    assert names(row("org/a"), row("/x/y/b"), row("bundled:based")) == ["a", "b", "based"]
    assert names(row("one/step-5"), row("two/step-5")) == ["one/step-5", "two/step-5"]
    assert names(row("org/a"), row("a")) == ["org/a", "a"]
    published = dataclasses.replace(row("BASED 1.35B/10B"), published=True)
    assert names(published, row("org/a")) == ["BASED 1.35B/10B", "a"]
    assert names(row("bundled:a"), row("a")) == ["a (bundled:a)", "a"]
    padded = {"pads": "published", "batch_size": "4"}
    assert names(row("a", arguments={}), row("a", arguments=padded)) == ["a", "a (pads published, batch_size 4)"]
    same = names(row("a", content_hash="1" * 64, dtype="float32"), row("a", content_hash="2" * 64, dtype="float32"))
    assert same == [f"a (content_hash {'1' * 12}...)", f"a (content_hash {'2' * 12}...)"]


def test_of_several_runs_the_last_counts(tmp_path):
    later = [runs.sample(i, 1) for i in range(12)]
    runs.write(tmp_path, {"fda": SAMPLES})
    runs.write(tmp_path, {"fda": later}, date="2027-01-02T03-04-05.000006", top={"date": 2.0})
    reading = read_runs([tmp_path])
    assert [row.value for row in reading.rows] == [5 / 12, 1.0]
    rows, notes = latest(reading.rows)
    assert [row.value for row in rows] == [1.0] and "was 0.4167" in notes[0]
    unlogged = dataclasses.replace(rows[0], value=0.25, must_match={"task": "fda", "limit": None})
    assert latest([*rows, unlogged])[0] == [unlogged]  # it tells less of its protocol, and nothing else
    failed = dataclasses.replace(rows[0], value=math.nan, failure="killed")
    assert latest([rows[0], failed])[0] == latest([failed, rows[0]])[0] == [rows[0]]


def test_the_metric_that_stands_for_a_task():
    rows = [Row("m", "t", metric, 0.5, must_match={"metric": metric}) for metric in ("f1", "other", "contains", "acc")]
    assert [row.metric for row in main_rows(rows)] == ["contains"]
    assert [row.metric for row in main_rows(rows[1:2])] == ["other"]
    asked = [dataclasses.replace(rows[0], must_match={"limit": limit}) for limit in (None, 5)]
    assert len(main_rows(asked)) == 2


def test_published_rows():
    rows = published_rows()
    found = {(row.source.split(",")[0], row.model, row.task): row.value for row in rows}
    readme = "README of HazyResearch/based: the released checkpoints"
    assert found[readme, "hazyresearch/based-360m", "recall_based_swde"] == pytest.approx(0.2565)
    assert found[readme, "hazyresearch/attn-1b", "recall_based_squad"] == pytest.approx(0.3589)
    assert found["Just Read Twice", "Based 1.3B/50B", "recall_jrt_twice_drop"] == pytest.approx(0.391)
    assert found["BASED", "Mamba 358M/10B", "based-paper:ppl_ar_hits"] == 2.21
    assert ("BASED", "GLA 362M/10B", "based-paper:swde") not in found
    assert len(rows) == 142 and all(row.published and math.isnan(row.error) for row in rows)
    assert len({row.key for row in rows}) == len(rows)


def test_what_published_rows_may_be_compared_with():
    must_match = {"task": "recall_based_fda", "protocol": "based", "questions": "fda", "limit": None, "shots": 0}
    must_match |= {"metric": "contains", "filter": "none", "truncation": {"max_length": 2048, "cut_prompts": 7}}
    row = Row("/copies/based-360m", "recall_based_fda", "contains", 0.15, must_match=must_match)
    ((other, differing),) = published_for(row)
    assert other.value == pytest.approx(0.1434) and differing == []
    limited = dataclasses.replace(row, must_match=must_match | {"limit": 100})
    assert published_for(limited)[0][1] == ["limit: 100 and none"]
    newer = Row("hazyresearch/based-360m@main", "fda", "contains", 0.17, must_match={"task": "fda", "limit": None})
    assert published_for(newer)[0][1] == ["task: fda and recall_based_fda"]
    assert published_for(dataclasses.replace(row, task="mini_fda")) == []
    assert published_for(dataclasses.replace(row, model="based-1b-other")) == []
