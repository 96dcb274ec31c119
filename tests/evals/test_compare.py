"""`recall-evals compare`: real runs, what it refuses and in which field, bad files, many prompts in little time."""

import json
import re
import time

import pytest
from typer.testing import CliRunner

import runs
from recall_evals.evals.cli import app
from recall_evals.results.statistics import paired_bootstrap

POSITIVE, NEGATIVE, ZERO = (0).__lt__, (0).__gt__, (0).__eq__
RIGHT, WRONG = [1, 1, 1, 1, 0, 1, 1, 1], [0, 1, 0, 0, 0, 1, 0, 1]


def compared(*arguments) -> str:
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments) -> str:
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.output


@pytest.fixture
def two(tmp_path):
    """Two runs of eight prompts of two documents: one right in seven, the other in three of them."""
    made = []
    for name, scores in (("good", RIGHT), ("bad", WRONG)):
        rows = [runs.sample(i, score, answer=" 42" if score else " 43") for i, score in enumerate(scores)]
        made.append(runs.write(tmp_path / name, {"fda": rows}, model=f"org/{name}"))
    return made


def test_real_runs(real_runs):
    text = compared(real_runs / "attention", real_runs / "based", "--flips", 1)
    samples = {}
    for name in ("attention", "based"):
        (file,) = (real_runs / name).rglob("samples_mini_fda_*")
        samples[name] = [json.loads(line) for line in file.read_text().splitlines()]
    a, b = ([row["contains"] for row in samples[name]] for name in ("attention", "based"))
    found = paired_bootstrap(a, b, [row["doc"]["doc_id"] for row in samples["attention"]])
    assert f"{100 * found.difference:+.1f}    {100 * found.low:+.1f} to {100 * found.high:+.1f}" in text
    differences = [x - y for x, y in zip(a, b, strict=True)]
    assert " / ".join(str(sum(map(is_such, differences))) for is_such in (POSITIVE, NEGATIVE, ZERO)) in text
    # The first prompt that changed: its key, what was expected, both answers, and where the fact stood.
    first = next(i for i in range(8) if a[i] != b[i])
    doc = samples["based"][first]["doc"]
    place = doc["text"].lower().index(doc["value"].lower()) / len(doc["text"].strip())
    assert re.search(
        rf"^  {first} of {doc['doc_id']}: {doc['key']}, at {place:.0%} of the prompt, [\d,]+ characters", text, re.M
    )
    for name in samples:
        answer = samples[name][first]["filtered_resps"][0].strip()
        assert re.search(rf"^  [+-] {name} +{re.escape(repr(answer))}$", text, re.MULTILINE)
    # One folder of both, read in the order of the runs, says the same; another task is in neither of them.
    assert compared(real_runs).splitlines()[3:5] == text.splitlines()[3:5]


def test_numbers_and_flips(two):
    text = compared(*two, "--flips", 2)
    assert re.search(r"fda +good +8 +87\.5 +\+50\.0 ", text) and re.search(r"contains, % +- bad +2 +37\.5 ", text)
    assert "4 / 0 / 4" in text and " 0.1250 " in text  # of four discordant pairs: 2 / 2 ** 4
    assert "fda: 2 of 4 prompts whose contains changed" in text
    assert "  0 of d0: Lot, at 50% of the prompt, 7 characters before the question" in text
    assert re.search(r"^    expected +'42'\n  \+ good +'42'\n  - bad +'43'$", text, re.MULTILINE)


def test_the_order_of_runs_mirrors_the_difference(two):
    one, other = compared(*two), compared(*reversed(two))
    assert "+50.0" in one and "-50.0" in other and "0 / 4 / 4" in other


def test_rows_that_must_match_and_do_not(two, tmp_path):
    rows = [runs.sample(i, 1) | {"prompt_hash": f"{i}" * 64} for i in range(8)]
    newer = runs.write(tmp_path / "newer", {"fda": rows}, model="org/newer", top={"versions": {"fda": 2}})
    told = refused(two[0], newer)
    assert "fda: good and newer differ in version: 1 and 2" in told and "differ in samples: " in told
    assert "--allow-mismatch" in told
    text = compared(two[0], newer, "--allow-mismatch")
    assert "Note: fda: good and newer differ in version: 1 and 2." in text
    assert "no prompt of good and newer is the same; they are paired by document and answer" in text


def test_two_runs_of_one_name(two, tmp_path):
    """Other weights under the same name, and the same model in two folders, are told apart."""
    rows = [runs.sample(i, score) for i, score in enumerate(WRONG)]
    other = runs.write(tmp_path / "other", {"fda": rows}, model="org/good", model_sha="f" * 40)
    assert f"good (model_sha {'f' * 12}...)" in compared(two[0], other)
    again = runs.write(tmp_path / "again", {"fda": rows}, model="org/good")
    assert f"good [{again}]" in compared(two[0], again)


def test_a_samples_file_cut_in_a_line_and_a_score_that_is_no_number(two):
    (file,) = two[1].glob("samples_*")
    lines = file.read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace('"contains": 0', '"contains": NaN')
    file.write_text("".join(lines)[:-40])
    text = compared(*two)
    assert re.search(r"fda +good +6 ", text)
    assert "line 8 isn't a whole JSON object" in text and "7 of 8 prompts" in text
    assert "1 prompts of bad have a contains that is no number" in text
    assert "2 prompts of good alone have a score" in text


def test_three_models_and_several_tasks(two, tmp_path):
    rows = [runs.sample(i, 1) for i in range(8)]
    third = runs.write(tmp_path / "third", {"fda": rows, "swde": rows}, model="org/third")
    text = compared(*two, third)
    assert len(re.findall(r"^fda ", text, re.MULTILINE)) == 3
    assert "only third has swde; good doesn't" in text


def test_few_documents(two, tmp_path):
    """Of one document, the uncertainty between documents can't be seen."""
    assert "Note: fda: with fewer than 30 documents the interval is too narrow" in compared(*two)
    for name, right in (("a", 3), ("b", 1)):
        rows = [runs.sample(i, int(i < right), document="one") for i in range(4)]
        runs.write(tmp_path / name, {"fda": rows}, model=name)
    text = compared(tmp_path / "a", tmp_path / "b")
    assert re.search(r"^fda +a +4 +75\.0 +\+50\.0 +- +- +0\.5000 +2 / 0 / 2 +-$", text, re.MULTILINE)
    assert "nan" not in text


def test_refusals(two, tmp_path):
    assert "two models are needed, and there is good" in refused(two[0])
    assert "no such file or folder" in refused(two[0], tmp_path / "absent")
    told = refused(two[0], two[1], "--tasks", "swde")
    assert "two models are needed, and there is none" in told and "good has none of these tasks; it has fda" in told
    for run in two:
        for file in run.glob("samples_*"):
            file.unlink()
    assert "no samples of fda; run lm-eval with --log_samples" in refused(*two)


def test_five_thousand_prompts(tmp_path):
    for name in ("a", "b"):
        rows = [
            runs.sample(i, (i * 7 + ord(name)) % 3 > 0, document=f"d{i // 8}", filler="x" * 2000) for i in range(5000)
        ]
        runs.write(tmp_path / name, {"fda": rows}, model=name)
    began = time.process_time()
    compared(tmp_path / "a", tmp_path / "b")
    assert time.process_time() - began < 2
