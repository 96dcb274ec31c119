"""`recall-evals report`: real runs of two backends in every form, bad input, and the page in a real browser."""

import csv
import dataclasses
import io
import json
import math
import re
import shutil

import pytest
from typer.testing import CliRunner

import runs
from recall_evals.evals.cli import app
from recall_evals.results.leaderboard import leaderboard
from recall_evals.results.page import page as page_of
from recall_evals.results.rows import Row, append_rows, read_runs

EVIL = "<script>window.evil = 1</script>\"'><img src=x onerror='window.evil = 2'>"


def reported(*arguments):
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.output


def test_rows_of_two_backends(real_runs):
    """What lm-eval itself wrote of its scores, and what our models said of what they cost."""
    reading = read_runs([real_runs])
    assert reading.problems == []
    by_model = {row.model: row for row in reading.rows}
    for name in ("attention", "based"):
        row = by_model[f"bundled:{name}"]
        (file,) = (real_runs / name).rglob("results_*")
        results = json.loads(file.read_text())
        scores, config = results["results"]["mini_fda"], results["config"]
        assert row.value == scores["contains,none"] and row.n == 8 and row.must_match["limit"] == 8
        assert row.error == scores["contains_stderr_clustered,none"] and row.clustered
        for field in ("state_bytes", "content_hash", "tokenizer_hash", "decode_tokens_per_second"):
            assert row.reported[field] == config[field]
        assert row.must_match["truncation"] == {"max_length": 2560, "cut_prompts": 0}
    row = by_model[str(real_runs / "gpt")]
    assert row.reported["backend"] == "hf" and row.reported["parameters"] > 1000
    assert row.must_match["truncation"] == {"max_length": 100, "cut_prompts": None}
    a, b = by_model["bundled:attention"], by_model["bundled:based"]
    assert a.must_match["samples"] == b.must_match["samples"] and a.must_match == b.must_match


def test_every_form(real_runs, tmp_path):
    rows = {row.model.removeprefix("bundled:"): row for row in read_runs([real_runs]).rows}
    table = reported(real_runs).stdout
    for name in ("attention", "based"):
        row = rows[name]
        shown = f"{100 * row.value:.1f} ± {100 * row.error:.1f}"
        parts = (f"{row.reported['parameters']:,}", f"{row.reported['state_bytes']:,}", re.escape(shown))
        assert re.search(rf"^{name} +{parts[0]} +{parts[1]} .* {parts[2]}", table, re.MULTILINE)
    read = list(csv.DictReader(io.StringIO(reported(real_runs, "--format", "csv").stdout)))
    assert {line["model"]: line["mini_fda"] for line in read}["based"] == repr(rows["based"].value)
    output = tmp_path / "table.tex"
    assert reported(real_runs, "--format", "latex", "--sort", "mini_fda", "--output", output).stdout == ""
    assert r"mini\_fda" in output.read_text()
    kept = tmp_path / "rows.jsonl"
    append_rows(kept, read_runs([real_runs]).rows)
    assert reported(kept, "--format", "md").stdout == reported(real_runs, "--format", "md").stdout


def test_perplexities_of_ppl(tmp_path):
    identity = {"checkpoint": "bundled:based", "parameters": 5, "content_hash": "ab", "tokenizer_hash": "cd"}
    part = {"tokens": 3, "cross_entropy": 1.0}
    model = {
        **identity,
        "perplexity": 12.345,
        "hits": part | {"perplexity": 2.5},
        "others": part | {"perplexity": None},
    }
    said = {"data": {"source": "x.txt", "sha256": "ef"}, "window": 8, "predicted_tokens": 6, "models": [model]}
    (tmp_path / "ppl.json").write_text(json.dumps(said))
    text = reported(tmp_path / "ppl.json").stdout
    assert re.search(r"perplexity +perplexity +perplexity\n +all +hits +other\n", text)
    assert re.search(r"^based +5 +12\.35 +2\.50 +NaN \[1\]$", text, re.MULTILINE)


def test_what_is_wrong_is_noted_and_the_rest_reported(tmp_path):
    run = runs.write(tmp_path / "out", {"fda": [runs.sample(i, i % 2) for i in range(8)]})
    (run / "results_2027-01-01T00-00-00.0.json").write_text("{")
    (run / "readme.txt").write_text("x")
    result = reported(run)
    assert "tiny" in result.stdout and "isn't whole JSON" in result.stderr and "readme.txt" in result.stderr
    assert "isn't whole" not in result.stdout


def test_a_page_of_scores_that_are_no_numbers():
    """There is no plot of them, and a page all the same."""
    costs = {"state_bytes": 100}
    rows = [Row(name, "fda", "contains", math.nan, must_match={"limit": None}, reported=costs) for name in ("a", "b")]
    text = page_of(leaderboard(rows), rows)
    assert text.count(">NaN<") == 2 and "data:image" not in text
    rows = [dataclasses.replace(row, value=0.5) for row in rows]
    assert "data:image" in page_of(leaderboard(rows), rows)


def test_refusals(tmp_path):
    assert "no results of lm-eval" in refused(tmp_path)
    assert "no such file or folder" in refused(tmp_path / "absent")
    run = runs.write(tmp_path / "out", {"fda": [runs.sample(0, 1)]})
    assert "give one of table, md, latex, csv, html" in refused(run, "--format", "pdf")
    assert "--sort x is no column; give one of fda" in refused(run, "--sort", "x")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of this machine; skips where there is none."""
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    what = "would have sorted, filtered and searched the HTML report, opened a prompt, and looked for console errors"
    if binary is None or driver is None:
        pytest.skip(f"no chromium and chromedriver on this machine: {what}")
    webdriver = pytest.importorskip("selenium.webdriver", reason=f"no selenium: {what}")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of three models, one of a hostile name, whose prompts and answers are hostile too."""
    folder = tmp_path_factory.mktemp("page")
    share = {"org/best": 6, f"org/evil{EVIL.replace('/', '')}": 4, "org/worst": 1}
    for i, (model, right) in enumerate(share.items()):
        rows = [
            runs.sample(j, int(j < right), answer=f"answer {j} {EVIL}", value=EVIL if j == 3 else "42", key=f"Key {j}")
            for j in range(8)
        ]
        rows[3]["arguments"]["gen_args_0"]["arg_0"] += EVIL
        costs = {"state_bytes": 10 ** (6 - i), "decode_tokens_per_second": 900.0 - i, "parameters": 1000}
        runs.write(folder / f"run{i}", {"fda": rows, f"swde{EVIL.replace('/', '')}": rows}, model=model, **costs)
    output = folder / "page.html"
    reported(folder, "--format", "html", "--output", output)
    return output


def test_the_page_needs_no_network_and_escapes_everything(page):
    text = page.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", text) and "@import" not in text and "url(" not in text
    assert "<script>window.evil" not in text and "<img src=x" not in text
    assert text.count("<script") == 3 and text.count("data:image/svg+xml") == 3


def test_the_page_in_a_browser(page, browser):
    browser.get(page.as_uri())

    def all_of(selector):
        return browser.find_elements("css selector", selector)

    def models():
        return [cell.text.split("<")[0] for cell in all_of("#board tbody tr td:first-child") if cell.is_displayed()]

    assert models() == ["best", "evil", "worst"]
    state = next(head for head in all_of("#board th button") if head.text.startswith("state"))
    state.click()  # the smallest first
    assert models() == ["worst", "evil", "best"]
    state.click()
    assert models() == ["best", "evil", "worst"]
    all_of("#board th button")[-1].click()
    assert models() == ["best", "evil", "worst"]
    all_of("#filter")[0].send_keys("WOR")
    assert models() == ["worst"]
    assert all(image.get_property("naturalWidth") > 0 for image in all_of(".plots img"))

    all_of("nav button")[1].click()
    assert not all_of("#leaderboard")[0].is_displayed()
    section = all_of("section:not([hidden])")[0]

    def prompts():
        return [row.text.split()[0] for row in section.find_elements("css selector", "tr.prompt")]

    assert prompts() == list("01234567")
    section.find_element("css selector", ".differ").click()
    assert prompts() == list("12345")
    section.find_element("css selector", ".search").send_keys("key 3")
    assert prompts() == ["3"] and "1 found" in section.text
    assert section.find_elements("css selector", "pre") == []
    section.find_element("css selector", "tr.prompt").click()
    assert section.find_element("css selector", "pre").text.startswith("Item 3. Lot: 42. Dry.")
    assert section.find_element("css selector", "mark").text == EVIL
    section.find_element("css selector", "tr.prompt").click()
    assert section.find_elements("css selector", "pre") == []
    assert browser.execute_script("return window.evil") is None
    assert browser.get_log("browser") == []
