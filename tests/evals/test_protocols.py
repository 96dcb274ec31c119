"""The page of protocols from real runs of tiny models, and its sentence, shares and refusals from made-up ones."""

import copy
import json
import re
import shutil
from dataclasses import replace

import pytest
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from typer.testing import CliRunner

import our_tasks
import tiny
from recall_evals.evals.cli import app
from recall_evals.models import load_model
from recall_evals.results.protocol_scores import (
    Scores,
    Spread,
    most_frequent,
    parts,
    spread_verdict,
    spreads,
    verdict,
)
from recall_evals.results.row import Row
from recall_evals.results.samples import Sample, read_samples
from recall_evals.results.statistics import clustered_standard_error

TASKS = ["local_fda", "local_jrt_fda", "local_based_squad", "mqar_8"]
MODELS = {"one": tiny.BASED, "two": tiny.MAMBA}


def command(*arguments) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments) -> str:
    result = CliRunner().invoke(app, ["protocols", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of two tiny models' runs and perplexities. The cut leaves 20 characters round the key, not its value."""
    root = tmp_path_factory.mktemp("protocols")
    rows = [
        {"doc_id": f"d{i // 2}", "key": "Lot", "value": "aeiou "[i] if i < 5 else "4711", "text": text}
        for i, text in enumerate([f"Lot of pumps. {'It is dry. ' * 3}aeiou {i} 4711\nLot:" for i in range(6)])
    ]
    for row in rows[:5]:
        row["value"] *= 2
        row["text"] = row["text"].replace("aeiou", row["value"])
    for name in ("fda", "squad"):
        (root / "data" / name).mkdir(parents=True)
        (root / "data" / name / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folders = {name: tiny.save(root / name, config) for name, config in MODELS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECALL_EVALS_DATA", str(root / "data"))
        patch.setenv("RECALL_EVALS_GPT2", str(folders["one"]))
        manager = our_tasks.manager({"context_length": 70})
        for name, folder in folders.items():
            tracker = EvaluationTracker(output_path=str(root / "out" / name))
            args = f"pretrained={folder},max_length=120"
            tracker.general_config_tracker.log_experiment_args("based", args, "", "", False)
            results = simple_evaluate(
                "based", args, TASKS, device="cpu", batch_size=8, limit=6, bootstrap_iters=0, task_manager=manager
            )
            samples = results.pop("samples")
            tracker.save_results_aggregated(results=results, samples=samples)
            for task in TASKS:
                tracker.save_results_samples(task, samples[task])
    text = root / "books.jsonl"
    text.write_text(
        "".join(json.dumps({"text": f"Lot {i} of pumps is dry, lot {i} is wet. " * 9}) + "\n" for i in "ab")
    )
    command("ppl", *folders.values(), "--data", text, "--length", 32, "--output", root / "books.json")
    return root


def test_the_page_of_real_runs(made):
    output = made / "page"
    printed = command(
        "protocols", made / "out" / "one", made / "out" / "two", "--ppl", made / "books.json", "--output", output
    )
    text = (output / "README.md").read_text()
    said = " ".join(text.split())  # sentences are cut into lines
    assert printed == text + "\n" and "Does the recall gap sit in the hits?" in text
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    header = next(line for line in lines if line[0] == "data")
    for task, data, protocol in (
        ("local_fda", "fda", "lm-eval-v1"),
        ("local_jrt_fda", "fda", "jrt"),
        ("local_based_squad", "squad", "based"),
    ):
        (row,) = [line for line in lines if line[:2] == [data, protocol]]
        # Of each question's answers in the other documents the most frequent one is never right: all answers differ.
        assert row[2:5] == ["6 / 3", "100.0 %" if protocol == "jrt" else "0.0 %", "0.0 %"]
        for model in MODELS:
            (file,) = (made / "out" / model).rglob(f"samples_{task}_*.jsonl")
            samples = read_samples(file).samples
            scores = [sample.scores["contains"] for sample in samples]
            error = clustered_standard_error(scores, [sample.document for sample in samples])
            assert row[header.index(model)] == f"{100 * sum(scores) / 6:.1f} ± {100 * error:.1f}"
    (row,) = [line for line in lines if line[0] == "mqar_8"]
    assert row[1:3] == ["exact_match", "6 / 2"]
    cut = r" - The context of one, two cut \d+ of 24 prompts of local_\*_fda, local_\*_squad, mqar_\* .* 120 tokens"
    assert re.search(cut, said)
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120
    values = [[float(row[header.index(model)].split()[0]) for model in MODELS] for row in lines if row[0] == "fda"]
    by_protocol = sum(abs(first - second) for first, second in zip(*values, strict=True)) / 2
    by_model = sum(abs(first - second) for first, second in values) / 2
    assert (
        f"score moves by {by_protocol:.1f} points on fda, between models under one protocol by {by_model:.1f}" in said
    )
    (row,) = [line for line in lines if line[0] == "one" and len(line) == 6]
    parameters = sum(weights.numel() for weights in load_model(str(made / "one")).parameters())
    assert row[1:4] == [f"{parameters:,}", "float32", "120 tokens"]
    assert "cut to" not in text and "of the document 20 tokens of GPT-2's around" in said
    result = json.loads((made / "books.json").read_text())
    (row,) = [line for line in lines if line[:2] == ["books", "two"]]
    gap = result["models"][1]["gap"]
    assert row[-2:] == [f"{gap['difference']:.3f}", f"{gap['hits']:.0%}"]
    assert f"{result['hits']:.1%} of them hits (pairs that the text itself has fewer than 1,000 times)" in said
    assert str(made) not in text
    kept, again = output / "scores.jsonl", made / "again"
    command("protocols", kept, "--ppl", made / "books.json", "--output", again)
    assert (again / "README.md").read_text() == text and (again / "scores.jsonl").read_text() == kept.read_text()
    assert "samples_" not in kept.read_text() and "results_" not in kept.read_text()
    for plot in ("scores.png", "perplexity.png"):
        assert (output / plot).read_bytes().startswith(b"\x89PNG") and f"({plot})" in text


def ppl(hits: float, gaps: list[tuple[float, float | None]]) -> dict:
    models = [{"checkpoint": "bundled:best", "gap": None}]
    models += [{"checkpoint": f"m{i}", "gap": {"difference": d, "hits": h}} for i, (d, h) in enumerate(gaps)]
    return {"models": models, "hits": hits}


def test_the_sentence():
    yes = {"books": ppl(0.23, [(0.1, 0.8), (0.2, 1.1)]), "fda": ppl(0.5, [(0.5, 0.9)])}
    assert verdict(yes) == (
        "Does the recall gap sit in the hits? Yes: on books, 23% of the tokens hold 80% of m0's and 110% of m1's; "
        "on fda, 50% of the tokens hold 90% of m0's distance to best."
    )
    assert "hits? No:" in verdict({"a": ppl(0.2, [(0.1, 0.3)])})
    assert "hits? Not everywhere:" in verdict({"a": ppl(0.2, [(0.1, 0.3), (0.1, 0.7)])})
    assert "There is no gap" in verdict({"a": ppl(0.2, [(-0.1, 0.3), (0.0, None)])})
    part = parts(yes)[1]
    assert (part.hits, part.others, part.share) == pytest.approx((0.22, -0.02, 1.1))


def test_the_sentence_about_protocols():
    same, turned = ("a", "b"), ("b", "a")
    fda = Spread("fda", 0.1, 0.3, {"lm-eval-v1": same, "based": same, "jrt": turned}, ("a", 0.2, "jrt"), ())
    squad = Spread("squad", 0.25, 0.2, {"lm-eval-v1": same, "based": same}, ("b", 0.3, "based"), ())
    assert spread_verdict([fda, squad]) == (
        "Does the protocol change a score more than the architecture? Not everywhere: between protocols one model's "
        "score moves by 10.0 points on fda and 25.0 points on squad, between models under one protocol by 30.0 and "
        "20.0 (largest less smallest, averaged). The order of the models is not always the same: under jrt on fda it "
        "is b, a."
    )
    assert "? No: " in spread_verdict([fda]) and "? Yes: " in spread_verdict([squad])
    assert "Under all of them the models come in the same order." in spread_verdict([squad])
    assert "Too little was run" in spread_verdict([])
    fallen = spread_verdict([replace(fda, furthest=("a", 0.4, "jrt"), close=("jrt", "based"))])
    assert (
        "? On average not: " in fallen
        and " Single scores move further: a's by 40.0 on fda (lowest under jrt). " in fallen
    )
    assert fallen.endswith(" under jrt on fda and based on fda.")


def test_the_spread_of_scores():
    def row(task, model, value, error):
        truncation = {"truncation": {"max_length": 64, "cut_prompts": 0}}
        asked = {"asked": {"documents": 2, "lost": 0, "floor": None}}
        return Row(model, task, "contains", value, error, n=4, must_match=truncation, reported=asked)

    rows = [
        row(task, model, value, 0.1)
        for task, values in (("local_fda", (0.9, 0.5, 0.2)), ("local_jrt_fda", (0.2, 0.1, 0.1)))
        for model, value in zip("abc", values, strict=True)
    ]
    (found,) = spreads(Scores(rows))
    assert found.furthest == ("a", pytest.approx(0.7), "jrt") and found.close == ("jrt",)
    assert (found.by_protocol, found.by_model) == pytest.approx(((0.7 + 0.4 + 0.1) / 3, (0.7 + 0.1) / 2))


def test_the_most_frequent_answer():
    def asked(*rows: tuple[str | None, str, str]) -> float | None:
        samples = [
            Sample(i, (), "none", document, {"key": key}, "", answer, "", {})
            for i, (key, document, answer) in enumerate(rows)
        ]
        return most_frequent(samples)

    # In d the others say x twice; in e too, which is wrong; in c they say x and y, as often, of which the first counts.
    lots = [("Lot", "c", "x"), ("Lot", "c", "x"), ("Lot", "d", "X "), ("Lot", "e", "y")]
    assert asked(*lots) == 3 / 4 and asked(*lots, ("Use", "e", "x")) == 3 / 5  # nobody else was asked for a use
    assert asked((None, "c", "x")) is None


def test_what_no_page_can_be_made_of(made, tmp_path):
    runs, books = [made / "out" / name for name in MODELS], made / "books.json"
    assert "can't be read" in refused(*runs, "--ppl", tmp_path / "no.json")
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert "no result of `recall-evals ppl`" in refused(*runs, "--ppl", other)
    said = copy.deepcopy(json.loads(books.read_text()))
    del said["models"][1]
    other.write_text(json.dumps(said))
    assert "of two models or more" in refused(*runs, "--ppl", other)
    (tmp_path / "again").mkdir()
    assert "a second file named books" in refused(
        *runs, "--ppl", books, "--ppl", shutil.copy(books, tmp_path / "again")
    )
    (tmp_path / "empty").mkdir()
    assert "no scores" in refused(tmp_path / "empty", "--ppl", books)
    changed = shutil.copytree(made / "out", tmp_path / "out")
    (file,) = (changed / "two").rglob("results_*.json")
    results = json.loads(file.read_text())
    results["configs"]["local_jrt_fda"]["metadata"]["context_length"] = 99
    file.write_text(json.dumps(results))
    message = refused(changed, "--ppl", books)
    assert "local_jrt_fda: one and two were asked otherwise (context_length: 70 and 99)" in message
    for samples in changed.rglob("samples_mqar_8_*.jsonl"):
        samples.write_text(samples.read_text()[:-20])
    assert "samples_mqar_8" in refused(changed, "--ppl", books)
