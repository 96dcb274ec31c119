"""The leaderboard: what is best, what is apart, what is averaged, and its four forms with hostile text."""

import csv
import io
import math
import re

import pytest

from recall_evals.results.leaderboard import Leaderboard, leaderboard
from recall_evals.results.leaderboard_text import FORMATS
from recall_evals.results.row import Row
from recall_evals.results.text import csv_text, latex, markdown, one_line

HOSTILE = "=cmd|' C calc'!A0 <b>_x_<b> 50% $a$ #1 {y} \\z ~ ^\x1b[31m\nnext & *bold*"


def row(model, task, value, error=0.02, **fields):
    match = {"task": task, "limit": None} | fields.pop("must_match", {})
    return Row(model, task, fields.pop("metric", "contains"), value, error, must_match=match, **fields)


def marks(board: Leaderboard, key: str) -> dict[str, str]:
    return {line.name: line.cells[key].mark for line in board.lines if key in line.cells}


def test_the_best_and_what_lies_within_its_error():
    rows = [row("a", "fda", 0.80, 0.03), row("b", "fda", 0.78, 0.001), row("c", "fda", 0.76), row("d", "fda", math.nan)]
    board = leaderboard(rows)
    assert marks(board, "fda") == {"a": "best", "b": "near", "c": "", "d": ""}
    assert board.footnotes == ["fda: contains of d is no number"]
    lower = [
        row(m, "text", v, math.nan, metric="word_perplexity", higher_is_better=False) for m, v in (("a", 9), ("b", 8))
    ]
    assert marks(leaderboard(lower), "text") == {"a": "", "b": "best"}
    assert marks(leaderboard(rows[:1]), "fda") == {"a": ""}  # the only one is no best


def test_protocols_that_differ_have_columns_of_their_own():
    board = leaderboard([row("a", "fda", 0.5), row("b", "fda", 0.6, must_match={"limit": 100})])
    keys = [column.key for column in board.columns]
    assert keys == ["fda (limit none)", "fda (limit 100)"]
    assert marks(board, keys[0]) == {"a": ""} and marks(board, keys[1]) == {"b": ""}
    both = [row("a", "fda", 0.5, must_match={"limit": n, "n": n, "samples": str(n) * 40}) for n in (1, 2)]
    assert [column.key for column in leaderboard(both).columns] == ["fda (limit 1)", "fda (limit 2)"]  # and no average


def test_columns_of_one_task_never_share_a_key():
    """b may be compared with a, which doesn't tell its prompts, and with c not; nor may what begins alike."""
    rows = [row("a", "fda", 0.5), row("b", "fda", 0.6, must_match={"samples": "1" * 64})]
    rows.append(row("c", "fda", 0.9, must_match={"samples": "2" * 64}))
    board = leaderboard(rows)
    assert [column.key for column in board.columns] == ["fda (samples 11111111)", "fda (samples 22222222)"]
    assert [list(line.cells) for line in board.lines] == [
        [key.key] for key in (*board.columns[:1] * 2, board.columns[1])
    ]
    assert marks(board, "fda (samples 11111111)") == {"a": "", "b": "best"}
    alike = [row(m, "fda", 0.5, must_match={"samples": "1" * 63 + m}) for m in "abc"]
    assert len({column.key for column in leaderboard(alike).columns}) == 3


def test_the_average_is_of_models_that_have_every_task():
    rows = [row("a", "fda", 0.5, 0.03), row("a", "swde", 0.7, 0.04), row("b", "fda", 0.9)]
    rows += [row("a", "text", 8.0, metric="word_perplexity"), row("b", "text", 8.0, metric="word_perplexity")]
    board = leaderboard(rows)
    cells = {line.name: line.cells for line in board.lines}
    assert cells["a"]["average"].value == pytest.approx(0.6) and cells["a"]["average"].error == pytest.approx(0.025)
    assert "average" not in cells["b"]


def test_costs_are_of_the_last_run_and_the_largest_state():
    rows = [
        row("a", "fda", 0.5, reported={"state_bytes": 900, "decode_tokens_per_second": 10.0, "parameters": 5}),
        row("a", "swde", 0.5, reported={"state_bytes": 700, "decode_tokens_per_second": 12.0, "parameters": 5}),
    ]
    (line,) = leaderboard(rows).lines
    assert line.cells["state_bytes"].value == 900 and line.cells["decode_tokens_per_second"].value == 12
    assert "prefill_tokens_per_second" not in line.cells


def test_sorted():
    rows = [row("a", "recall_fda", 0.2, reported={"state_bytes": 5}), row("b", "recall_fda", 0.4), row("c", "x", 0.1)]
    board = leaderboard(rows)
    assert [line.name for line in board.sorted_by("fda").lines] == ["b", "a", "c"]
    assert [line.name for line in board.sorted_by("state_bytes").lines] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="--sort swde is no column; give one of state_bytes, recall_fda"):
        board.sorted_by("swde")
    split = leaderboard([row("a", "fda", 0.2), row("b", "fda", 0.4, must_match={"limit": 5})])
    assert [line.name for line in split.sorted_by("fda (limit 5)").lines] == ["b", "a"]
    with pytest.raises(ValueError, match=r"--sort fda could be fda \(limit none\), fda \(limit 5\); give one of"):
        split.sorted_by("fda")


def test_published_rows_and_the_difference_to_them():
    match = {"protocol": "based", "questions": "fda", "shots": 0, "filter": "none", "metric": "contains"}
    match |= {"truncation": {"max_length": 2048, "cut_prompts": 3}}
    rows = [row("hazyresearch/based-360m", "recall_based_fda", 0.1534, must_match=match)]
    rows.append(row("hazyresearch/based-360m", "fda", 0.17))
    rows.append(row("other", "recall_based_fda", 0.1, must_match=match))
    assert len(leaderboard(rows).lines) == 2
    board = leaderboard(rows, with_published=True)
    ours = board.lines[0]
    assert ours.cells["recall_based_fda"].mark == "best"  # of the runs: published models score higher
    assert ours.cells["recall_based_fda"].delta == pytest.approx(0.01) and not ours.cells["recall_based_fda"].notes
    assert math.isnan(ours.cells["fda"].delta) and ours.cells["fda"].notes
    note = board.footnotes[ours.cells["fda"].notes[0] - 1]
    assert note.endswith("not comparable (task: fda and recall_based_fda): based-360m 14.3")
    published = {line.name: line for line in board.lines if line.published}
    assert published["based-360m (published)"].cells["recall_based_fda"].value == pytest.approx(0.1434)
    assert published["attn-1b"].cells["recall_based_fda"].mark == ""  # of another run on another machine
    # Of the other tables, asked otherwise, a remark is all that is shown.
    assert [column.key for column in board.columns] == [column.key for column in leaderboard(rows).columns]
    assert len(published) == 6 and all(line.cells.keys() == {"recall_based_fda"} for line in published.values())
    told = [remark.partition(": asked otherwise, not shown ")[2].partition(" and ")[0] for remark in board.remarks]
    assert told == ["(protocol: based", "(protocol: based", "(protocol: based"]
    assert board.remarks[0].startswith("BASED, arXiv 2402.18668 v2, Table 1: asked otherwise")
    assert "15.3 ± 2.0 (Δ +1.0) **" in FORMATS["table"](board)


def test_published_scores_under_no_matching_protocol_share_a_footnote():
    match = {"protocol": "based", "questions": "fda", "limit": 8}
    models = ["hazyresearch/based-360m", "hazyresearch/attn-1b", "other"]
    board = leaderboard([row(m, "recall_based_fda", 0.1, must_match=match) for m in models], with_published=True)
    assert [line.cells["recall_based_fda"].notes for line in board.lines] == [(1,), (1,), ()]
    assert board.footnotes[0].endswith("not comparable (limit: 8 and none): based-360m 14.3, attn-1b 68.9")
    assert not any(line.published for line in board.lines) and len(board.columns) == 1


def test_every_form_shows_the_same_numbers():
    board = leaderboard([row("a", "fda", 0.801, 0.03), row("b", "fda", 0.78, 0.001), row("c", "fda", 0.7)])
    assert re.search(r"^a +80\.1 ± 3\.0 \*\*$", FORMATS["table"](board), re.MULTILINE)
    assert re.search(r"^b +78\.0 ± 0\.1 \*$", FORMATS["table"](board), re.MULTILINE)
    assert "| **80.1 ± 3.0** |" in FORMATS["md"](board) and "| *78.0 ± 0.1* |" in re.sub(
        " +", " ", FORMATS["md"](board)
    )
    assert r"a & \textbf{80.1 $\pm$ 3.0} \\" in FORMATS["latex"](board)
    read = list(csv.DictReader(io.StringIO(FORMATS["csv"](board))))
    assert read[0] == {"model": "a", "published": "0", "fda": "0.801", "fda error": "0.03"}


def test_hostile_names_in_every_form():
    board = leaderboard([row(HOSTILE, "fda", 0.5), row("plain", "fda", 0.5, failure=None)])
    for name, form in FORMATS.items():
        text = form(board)
        assert "\x1b" not in text and len([line for line in text.splitlines() if "cmd" in line]) == 1, name
    read = list(csv.DictReader(io.StringIO(FORMATS["csv"](board))))
    assert read[0]["model"].startswith("'=cmd") and read[1]["model"] == "plain"


def test_escaping():
    assert one_line("a\nb\x07\x1b[0m\u202ec", 8) == "a b��..."
    assert markdown("a|b_c _d_ <i> [x](y) `z` *s*") == r"a\|b_c \_d\_ \<i\> \[x\](y) \`z\` \*s\*"
    assert latex("50% of_a & b# {c} $d$ ~e^f\\g") == (
        r"50\% of\_a \& b\# \{c\} \$d\$ \textasciitilde{}e\textasciicircum{}f\textbackslash{}g"
    )
    assert [csv_text(text) for text in ("=1", "@x", "-1", "+1", "a=1")] == ["'=1", "'@x", "'-1", "'+1", "a=1"]


def test_failures_are_told_below():
    """A model that has scores too keeps its one line, under the name by which a suite calls it."""
    rows = [row("bundled:a", "fda", 0.5, reported={"content_hash": "c" * 64})]
    for name in ("a", "b"):
        rows.append(Row(name, "swde", "failed", math.nan, failure="out of memory\nTraceback\nCUDA says no"))
    board = leaderboard(rows)
    assert [line.name for line in board.lines] == ["a", "b"] and board.lines[1].cells == {}
    for name in ("a", "b"):
        assert f"\n{name}: swde failed: out of memory ... CUDA says no" in FORMATS["table"](board)
