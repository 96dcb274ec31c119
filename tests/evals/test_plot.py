"""`recall-evals plot`: each plot of real runs as PNG and SVG, and what it refuses."""

from typer.testing import CliRunner

import runs
from recall_evals.evals.cli import app


def plotted(*arguments) -> str:
    result = CliRunner().invoke(app, ["plot", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments) -> str:
    result = CliRunner().invoke(app, ["plot", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.output


def test_the_frontier_of_real_runs(real_runs, tmp_path):
    output = tmp_path / "v1.2"  # whose last part is no suffix of a format
    assert ".png" in refused("frontier", real_runs, "--output", output)
    output = tmp_path / "new" / "frontier"
    assert f"wrote {output}.png, {output}.svg" in plotted(
        "frontier", real_runs, "--task", "mini_fda", "--output", output
    )
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    svg = output.with_suffix(".svg").read_text()
    assert ">attention<" in svg and ">based<" in svg and ">gpt<" not in svg
    assert "--task fda could be mini_fda, local_fda; give one of" in refused("frontier", real_runs, "--task", "fda")
    assert "no model has all tasks; give --task, one of mini_fda, local_fda" in refused("frontier", real_runs)


def test_the_slices_of_real_runs(real_runs, tmp_path):
    text = plotted("slices", real_runs / "attention", real_runs / "based", "--output", tmp_path / "slices")
    assert "share right (%)" in text
    assert ">depth in %<" in (tmp_path / "slices.svg").read_text()
    assert (tmp_path / "slices.png").read_bytes().startswith(b"\x89PNG")


def test_training(tmp_path):
    for i, step in enumerate((100, 200)):
        rows = [runs.sample(j, int(j <= i)) for j in range(4)]
        runs.write(tmp_path / f"out{i}", {"fda": rows}, model=f"runs/based/step-{step}")
    assert "t.svg" in plotted("training", tmp_path, "--output", tmp_path / "t.svg")
    assert ">training step<" in (tmp_path / "t.svg").read_text() and not (tmp_path / "t.png").exists()
    assert "says its training step" in refused("training", tmp_path, "--task", "swde")
    (tmp_path / "out0" / "results_2027-01-01T00-00-00.0.json").write_text("{")
    result = CliRunner().invoke(app, ["plot", "training", str(tmp_path), "--output", str(tmp_path / "t.svg")])
    assert result.exit_code == 0 and "isn't whole JSON" in result.stderr


def test_refusals(tmp_path):
    assert "no results of lm-eval" in refused("frontier", tmp_path)
    run = runs.write(tmp_path / "out", {"fda": [runs.sample(0, 1)]})
    assert "give frontier, slices or training" in refused("pie", run)
    assert "state_bytes" in refused("frontier", run)
