"""`recall-evals slices`: samples whose places are known, real runs of tiny models, and what it refuses."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny
from recall_evals.evals.cli import app
from runs import transformer

DATE = "2026-01-02T03-04-05.000006"
FILLER = "The pump was dry. "


def sliced(*arguments) -> str:
    result = CliRunner().invoke(app, ["slices", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments) -> str:
    result = CliRunner().invoke(app, ["slices", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.output


def recorded(folder: Path, *arguments) -> list[dict]:
    file = folder / "records.jsonl"
    sliced(folder, "--records", file, *arguments)
    return [json.loads(line) for line in file.read_text().splitlines()]


def sample(prompt: str, value: str, score: float = 1.0, generated: int = 8, **fields) -> dict:
    doc = {"doc_id": "d", "key": "Key", "value": value, "text": prompt}
    arguments = {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["\n"], "max_gen_toks": generated}}}
    made = {"doc_id": 0, "doc": doc, "target": value, "arguments": arguments, "filter": "none", "contains": score}
    return made | fields


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model") / "tiny", tiny.BASED)


@pytest.fixture
def write(tmp_path, model):
    """Writes a run's samples and what the results file says of it; returns the output folder."""

    def make(rows: list[dict], name: str = "out", task: str = "forms", date: str = DATE, **results) -> Path:
        folder = tmp_path / name / "model"
        folder.mkdir(parents=True, exist_ok=True)
        said = {"config": {"model_args": {"pretrained": str(model)}}, "model_name": "tiny", "max_length": 64} | results
        (folder / f"results_{date}.json").write_text(json.dumps(said))
        (folder / f"samples_{task}_{date}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return make


def test_records_of_known_places(write):
    short = "Lot: 42. Dry.\nKey:"  # 18 bytes, each a token
    long = "Lot: 42. é" + "x" * 50 + "\nKey:"  # é takes two: 66 bytes, of which 64 - 8 are read
    rows = [sample(short, "42"), sample(long, "42", 0.0), sample(short, "43"), sample("x" * 60 + short, "42")]
    common = {"model": "tiny", "task": "forms", "document": "d", "key": "Key"}
    assert recorded(write(rows)) == [
        common
        | {"prompt_tokens": 18, "read_tokens": 18, "distance": 7, "depth": 5 / 18, "survived": True}
        | {"repeats": 1, "answer_tokens": 2, "score": 1.0},
        common
        | {"prompt_tokens": 66, "read_tokens": 56, "distance": 55, "depth": 5 / 66, "survived": False}
        | {"repeats": 1, "answer_tokens": 2, "score": 0.0},
        common
        | {"prompt_tokens": 18, "read_tokens": 18, "distance": None, "depth": None, "survived": None}
        | {"repeats": 0, "answer_tokens": None, "score": 1.0},
        common
        | {"prompt_tokens": 78, "read_tokens": 56, "distance": 7, "depth": 43 / 56, "survived": True}
        | {"repeats": 1, "answer_tokens": 2, "score": 1.0},
    ]


def test_the_context_is_what_the_results_say(write):
    prompt = "Lot: 42. " + "x" * 50 + "\nKey:"
    no_limit = sample(prompt, "42")
    del no_limit["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"]

    def read(row, **results):
        (found,) = recorded(write([row], **results))
        return found["read_tokens"]

    assert len(prompt) == 64
    assert read(sample(prompt, "42"), max_length=64) == 56
    assert read(sample(prompt, "42", generated=20), max_length=64) == 44
    assert read(no_limit, max_length=300) == 44  # 256, what lm-eval generates by default
    model_args = json.loads((write([no_limit]) / "model" / f"results_{DATE}.json").read_text())["config"]["model_args"]
    assert read(sample(prompt, "42"), max_length=None, config={"model_args": model_args | {"max_length": 40}}) == 32
    assert read(no_limit, max_length=100, config={"model_args": model_args | {"max_gen_toks": 50}}) == 50
    text = f"pretrained={model_args['pretrained']},max_length=40"
    assert read(sample(prompt, "42"), max_length=None, config={"model_args": text}) == 32
    assert read(sample(prompt, "42"), max_length=None) == 64


def test_answers_of_every_kind_of_task(write):
    prompt = "11 a, 22 b, 33 c\nQ:"
    rows = [
        sample(prompt, "22", doc={"values": ["22", "33"], "value": "22"}),
        sample(prompt, "22", doc={"answers": ["no", "33"]}, target="no"),
        sample(prompt, "22", doc={"question": "Q"}),
        sample(prompt, "22", doc={"value": "22", "doc_id": "x"}, contains_stderr_clustered=[1.0, "page 7"]),
        sample(prompt, "22", doc={"value": "22", "doc_id": " "}),
    ]
    found = recorded(write(rows))
    assert [(row["depth"], row["distance"], row["answer_tokens"]) for row in found] == [
        (6 / 19, 3, 4),
        (12 / 19, 3, 2),
        *[(6 / 19, 9, 2)] * 3,
    ]
    assert [row["document"] for row in found] == [None, None, None, "page 7", None]


def test_models_side_by_side(write, tmp_path):
    rows = [sample(f"Lot: 4{i}. Dry.\nKey:", f"4{i}", float(i % 2), doc_id=i) for i in range(8)]
    for i, row in enumerate(rows):
        row["doc"]["doc_id"] = f"d{i // 2}"
    a = write(rows, "a", model_name="models/strong")
    b = write([row | {"contains": 0.0} for row in rows], "b", model_name="models/weak")
    plot = tmp_path / "slices.svg"
    text = sliced(a, b, "--plot", plot)
    assert re.search(r"^\| prompts +\| +strong \| +weak \|$", text, re.MULTILINE)
    assert re.search(r"^\| 20 to 30 +\| 50\.0 ± 0\.0 \(8\) \| 0\.0 ± 0\.0 \(8\) \|$", text, re.MULTILINE)
    assert ">strong<" in plot.read_text() and ">weak<" in plot.read_text()
    assert "Note" not in text
    same = sliced(a, write(rows[:3], "c", model_name="models/strong"))
    assert f"{a}: strong" in same and f"{tmp_path / 'c'}: strong" in same
    assert "answered other prompts" in same
    assert sliced(a, f"{a}/") == sliced(a)


def test_tasks_are_pooled_unless_chosen(write):
    write([sample("Lot: 42.\nKey:", "42")], task="one_task")
    out = write([sample("Lot: 42.\nKey:", "42", 0.0)], task="other", date=DATE.replace("03-04", "05-04"))
    assert "tasks: one_task, other" in sliced(out) and "tasks are pooled" in sliced(out)
    assert {row["task"] for row in recorded(out, "--tasks", "other")} == {"other"}
    assert "no prompts with a score of contains or exact_match in third" in refused(out, "--tasks", "third")


def test_the_newest_samples_of_a_task_and_its_first_filter(write):
    write([sample("Lot: 42.\nKey:", "42", 0.0)])
    rows = [sample("Lot: 42.\nKey:", "42"), sample("Lot: 42.\nKey:", "42", 0.0, filter="loose")]
    out = write(rows, date=DATE.replace("2026", "2027"))
    assert [row["score"] for row in recorded(out)] == [1.0]
    assert f"samples_forms_{DATE}.jsonl is left out for the later samples_forms_2027" in sliced(out)


def test_samples_cut_in_the_middle_of_a_line(write):
    out = write([sample("Lot: 42. é\nKey:", "42")] * 3)
    (file,) = out.rglob("samples_*.jsonl")
    file.write_bytes(file.read_bytes()[:-40])
    assert len(recorded(out)) == 2
    assert f"{file} ends in the middle of line 3: its 2 whole lines were used" in sliced(out)
    file.write_bytes(file.read_bytes() + b"\n" + json.dumps(sample("Lot: 42.\nKey:", "42")).encode())
    assert f"{file}: line 3 isn't JSON" in refused(out)


def test_tasks_that_have_no_such_score_are_skipped(write):
    other = sample("Lot: 42.\nKey:", "42")
    del other["contains"]
    write([other | {"acc": 1.0}], task="choice")
    assert "has no contains or exact_match" in refused(write([other], task="choice"))
    out = write([sample("Lot: 42.\nKey:", "42")])
    text = sliced(out)
    assert "tasks: forms\n" in text
    assert re.search(r"Note: \S*samples_choice_\S+ is skipped: line 1 has no contains or exact_match", text)
    scored = sample("Lot: 42.\nKey:", "42", exact_match=0.0)
    del scored["contains"]
    assert [row["score"] for row in recorded(write([scored]))] == [0.0]
    continuation = sample("Lot: 42.\nKey:", "42", arguments={"gen_args_0": {"arg_0": "Lot: 42.\nKey:", "arg_1": " 42"}})
    assert "has no generated text" in refused(write([continuation]), "--tasks", "forms")


def test_the_jobs_of_a_sweep_are_one_column_a_model(write):
    """Each in a folder of its own, one of them about whole texts; the same task asked twice stays apart."""
    write([sample("Lot: 42.\nKey:", "42")], "sweep/one")
    text = sample("Lot: 42.", "42", arguments={"gen_args_0": {"arg_0": "Lot: 42."}})
    del text["contains"]
    write([text], "sweep/two", task="text")
    out = write([sample("Lot: 43.\nKey:", "43", 0.0)], "sweep/three", task="more").parent
    assert {(row["model"], row["task"]) for row in recorded(out)} == {("tiny", "forms"), ("tiny", "more")}
    write([sample("Lot: 44.\nKey:", "44")], "sweep/zz")
    assert len({row["model"] for row in recorded(out)}) == 2


def test_refusals(write, model, tmp_path):
    row = sample("Lot: 42.\nKey:", "42")
    assert "no such folder" in refused(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "--log_samples" in refused(tmp_path / "empty")
    unknown = write([row], "unknown", config={"model": "openai-completions", "model_args": {"model": "x"}})
    assert "names no tokenizer; give --tokenizer" in refused(unknown)
    assert len(recorded(unknown, "--tokenizer", model)) == 1
    gone = write([row], "gone", config={"model_args": {"pretrained": str(tmp_path / "gone" / "model")}})
    assert "--tokenizer" in refused(gone)
    (gone / "model" / f"results_{DATE}.json").unlink()
    assert "names no tokenizer" in refused(gone)
    assert [r["model"] for r in recorded(gone, "--tokenizer", model)] == ["model"]
    changed = write([row], "changed", config={"model_args": {"pretrained": str(model)}, "tokenizer_hash": "0" * 64})
    assert "another tokenizer" in refused(changed)
    assert len(recorded(changed, "--tokenizer", model)) == 1
    out = write([row])
    assert "--plot" in refused(out, "--plot", tmp_path / "plot.jpeg")
    assert "make it first" in refused(out, "--records", tmp_path / "absent" / "r.jsonl")
    del row["arguments"]
    assert "line 1 has no 'arguments'" in refused(write([row]))


def test_everything_cut_away_leaves_the_counts(write, tmp_path):
    out = write([sample("Lot: 42. " + "x" * 60 + "\nKey:", "42")])
    text = sliced(out, "--plot", tmp_path / "plot.png")
    assert re.search(r"^\| in the slices +\| +0 \|$", text, re.MULTILINE)
    assert re.search(r"^\| apart: answer cut away by truncation +\| 100\.0 \(1\) \|$", text, re.MULTILINE)
    assert "depth" not in text


@pytest.mark.parametrize("backend", ["based", "hf"])
def test_a_real_run(backend, model, tmp_path, monkeypatch):
    """What the model truncated, by its own count, is what is said to be cut; scores and documents are lm-eval's."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    from recall_evals.evals.gap import _task_manager

    values = [f"{7 * i + 100}" for i in range(6)]
    rows = [
        {"doc_id": f"d{i // 2}", "key": "Lot", "value": value, "text": f"Lot: {value}. {FILLER * i}\nLot:"}
        for i, value in enumerate(values)
    ]
    data = tmp_path / "data" / "fda" / "validation.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tmp_path / "data"))
    args = {"pretrained": str(model), "max_length": 100}
    if backend == "hf":
        args["pretrained"] = str(transformer(tmp_path / "gpt"))
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    tracker.general_config_tracker.log_experiment_args(
        backend, ",".join(f"{k}={v}" for k, v in args.items()), "", "", False
    )
    results = simple_evaluate(
        backend, args, ["local_fda"], device="cpu", batch_size=1, bootstrap_iters=0, task_manager=_task_manager()
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    tracker.save_results_samples("local_fda", samples["local_fda"])

    found = recorded(tmp_path / "out")
    lengths = [len(row["text"]) for row in rows]
    assert [row["prompt_tokens"] for row in found] == lengths
    assert [row["read_tokens"] for row in found] == [min(100 - 48, length) for length in lengths]
    cut = [row["read_tokens"] < row["prompt_tokens"] for row in found]
    assert 0 < sum(cut) < len(cut)
    if backend == "based":
        assert sum(cut) == results["config"]["truncated_prompts"]
    assert [row["survived"] for row in found] == [length - 52 <= len("Lot: ") for length in lengths]
    assert [row["distance"] for row in found] == [2 + len(FILLER) * i + 1 for i in range(6)]
    assert [row["document"] for row in found] == [row["doc_id"] for row in rows]
    assert sum(row["score"] for row in found) / 6 == results["results"]["local_fda"]["contains,none"]
