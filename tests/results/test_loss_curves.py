"""The plot of training losses."""

import json

from recall_evals.results.loss_curves import plot_loss_curves, read_curve


def test_curves_are_read_and_drawn(tmp_path):
    files = {}
    for name, level in (("one", 3.0), ("two", 2.0)):
        rows = [{"step": 50 * i, "tokens": 1_000_000 * i, "loss": level + 1 / i} for i in range(1, 40)]
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokens, loss = read_curve(files["one"])
    assert tokens[:2] == [1.0, 2.0] and loss[:2] == [4.0, 3.5]
    plot_loss_curves(files, tmp_path / "plots" / "loss.svg")
    svg = (tmp_path / "plots" / "loss.svg").read_text()
    assert svg.count("<path") > 4
    plot_loss_curves(files, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
