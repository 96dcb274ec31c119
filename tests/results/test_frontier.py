"""The Pareto front against brute force, and the plots of frontier and training."""

import dataclasses
import itertools
import random

import pytest

from recall_evals.results.frontier import Point, pareto, plot_frontier, points, staircase
from recall_evals.results.leaderboard import leaderboard
from recall_evals.results.row import Row
from recall_evals.results.training_plot import curves, plot_training


@pytest.mark.parametrize("less_is_better", [True, False])
def test_the_front_is_what_nothing_beats(less_is_better):
    rng = random.Random(1)
    for _ in range(50):
        found = [Point(str(i), rng.randint(1, 6), rng.randint(0, 6), 0.0) for i in range(8)]

        def beats(a, b):
            cheaper = a.cost <= b.cost if less_is_better else a.cost >= b.cost
            return cheaper and a.score >= b.score and (a.cost, a.score) != (b.cost, b.score)

        best = {(p.cost, p.score) for p in found if not any(beats(other, p) for other in found)}
        front = pareto(found, less_is_better)
        assert {(p.cost, p.score) for p in front} == best and len(front) == len(best)
        assert [p.cost for p in front] == sorted(p.cost for p in front)


@pytest.mark.parametrize("less_is_better", [True, False])
def test_the_steps_are_the_best_score_for_each_cost(less_is_better):
    rng = random.Random(2)
    for _ in range(20):
        found = [Point(str(i), rng.uniform(1, 9), rng.uniform(0, 9), 0.0) for i in range(12)]
        front = pareto(found, less_is_better)
        steps = staircase(front, less_is_better)
        assert len(steps) == 2 * len(front) - 1
        for (x0, y0), (x1, y1) in itertools.pairwise(steps):
            assert x0 == x1 or y0 == y1
            if x0 < x1:
                cost = (x0 + x1) / 2
                had = [p.score for p in found if (p.cost <= cost if less_is_better else p.cost >= cost)]
                assert y0 == max(had)


def test_the_frontier_is_drawn(tmp_path):
    rows = [
        Row(
            name, "fda", "contains", 0.1 * i, 0.02, reported={"state_bytes": 10**i, "decode_tokens_per_second": 500 / i}
        )
        for i, name in enumerate(["one", "two $x$", "<three>"], start=5)
    ]
    rows.append(Row("no state", "fda", "contains", 0.4))
    board = leaderboard(rows)
    assert [p.name for p in points(board, "state_bytes", "fda")] == ["one", "two $x$", "<three>"]
    plot_frontier(board, "fda", [tmp_path / "new" / "f.svg", tmp_path / "f.png"])
    svg = (tmp_path / "new" / "f.svg").read_text()
    for text in ("one", "two $x$", "&lt;three&gt;", "state of one sequence (bytes)", "decoding (tokens/s)", "fda %"):
        assert f">{text}<" in svg, text
    assert "no state" not in svg
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no run has both a score of fda and state_bytes"):
        plot_frontier(leaderboard(rows[3:]), "fda", [tmp_path / "x.png"])


def test_checkpoints_of_training_runs(tmp_path):
    names = ["runs/a/step-100", "runs/a/step-2000", "runs/a/step-300", "org/b@step500", "org/b@step1000", "final"]
    rows = [Row(name, "fda", "contains", i / 10, 0.01) for i, name in enumerate(names)]
    found = curves(rows)
    assert {place: [row.step for row in line] for place, line in found.items()} == {
        ("runs/a", "fda"): [100, 300, 2000],
        ("org/b", "fda"): [500, 1000],
    }
    other = [
        Row("runs/a/step-100", "fda", "acc", 0.9, must_match={"n": 9}),
        Row("runs/a/step-100", "fda", "contains", 0.9, must_match={"n": 5}),
    ]
    rows[0] = dataclasses.replace(rows[0], must_match={"n": 9})
    apart = curves([*rows, *other])  # another metric is none of the curve, another protocol has one of its own
    assert {place: len(line) for place, line in apart.items()} == {
        ("runs/a", "fda (n 9)"): 3,
        ("org/b", "fda (n 9)"): 2,
        ("runs/a", "fda (n 5)"): 1,
    }
    plot_training(rows, [tmp_path / "t.svg"])
    svg = (tmp_path / "t.svg").read_text()
    assert all(f">{text}<" in svg for text in ("a", "b", "fda", "training step", "2,000"))
    with pytest.raises(ValueError, match="says its training step"):
        plot_training(rows[-1:], [tmp_path / "t.svg"])
