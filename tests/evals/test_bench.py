"""The benchmarks' parts that need no GPU."""

import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import causal
import tiny
from recall_evals.evals.bench import command, decode, matched, peers, report, shapes
from recall_evals.evals.cli import app
from recall_evals.kernels.taylor_linear_attention import reference as taylor
from recall_evals.models.transformers_model import TransformersModel


def test_the_peer_is_the_published_recurrence():
    torch.manual_seed(0)
    q, k, v = (torch.randn(40, 2, n, dtype=torch.float64) for n in (16, 16, 5))
    kv, k_sum = torch.zeros(1, 2, 5, 273, dtype=torch.float64), torch.zeros(1, 2, 273, dtype=torch.float64)
    got = torch.cat([peers.original_step(q[i : i + 1], k[i : i + 1], v[i : i + 1], kv, k_sum) for i in range(40)])
    torch.testing.assert_close(got, taylor.quadratic(q, k, v, 0.25), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prompt", [4, 100])
@pytest.mark.parametrize("name", ["attention", "based", "mamba"])
def test_generation_is_timed_on_the_steps_of_the_engine(name, prompt):
    model = tiny.build(tiny.CONFIGS[name])
    dtype = torch.bfloat16 if name == "based" else None
    row = decode.our_row(name, model, 3, prompt, 20, copy_rate=1e9, state_dtype=dtype)
    assert row["tokens_per_ms"] == pytest.approx(3 / row["ms_per_step"])
    floor = (shapes.weight_bytes(model) + 3 * row["state_bytes"]) / 1e9
    assert row["of_bytes_ceiling"] == pytest.approx(1000 * floor / row["ms_per_step"], rel=1e-3)


def test_uneven_requests_with_and_without_refilling():
    rows = list(decode.refilling_rows(tiny.build(tiny.BASED), slots=4, requests=10))
    assert [row["what"] for row in rows] == ["engine, slots refilled", "engine, slots group after group"]
    # The same work: every answer is as long as its limit, and its first token takes no step.
    assert rows[0]["decoded"] == rows[1]["decoded"] > 10 * 4


@pytest.mark.parametrize("name", ["ours", "mamba", "rwkv", "without a cache"])
def test_architectures_of_equal_size_are_measured_as_far_as_they_can(name, monkeypatch):
    monkeypatch.setattr(matched, "READ", ((1, 70), (2, 80)))
    monkeypatch.setattr(matched, "WELL", float("inf"))  # what no library reaches
    monkeypatch.setattr(matched, "NEW", 4)
    if name == "ours":
        model: Any = tiny.build(tiny.MAMBA)
    else:
        cached = name != "without a cache"
        model = TransformersModel(causal.build(name if cached else "mamba"), cached)
    row = matched.measured(model, 1e9)
    assert row["read"] == ("2 x 80" if name == "ours" else "1 x 70")
    assert row["read_tokens_per_ms"] > 0 and not row["in_cuda_graphs"]
    assert row["runs_in"] == ("recall-evals" if name == "ours" else "Transformers")
    if name == "without a cache":
        assert row["skipped"].startswith("decoding: cache=false: for each new token all") and "tokens_per_ms" not in row
    else:
        assert row["batch"] == (1 if name == "rwkv" else matched.BATCH) and row["tokens_per_ms"] > 0
    one = model.prefill(torch.zeros(9, dtype=torch.int64), [9])[1]
    assert row["state_bytes_2048"] == one.nbytes or name == "without a cache"


def test_prompts_that_do_not_fit_are_forked_and_a_row_that_breaks_ends_no_run(monkeypatch):
    ours = matched.our_row

    def full(*args: Any, forked: bool = False) -> report.Row:
        if not forked:
            raise torch.OutOfMemoryError
        return ours(*args, forked=forked)

    def broken(config: dict[str, Any], device: str) -> Any:
        raise AssertionError("head_dim")

    monkeypatch.setattr(matched, "our_row", full)
    monkeypatch.setattr(matched, "NEW", 4)
    monkeypatch.setattr(matched, "READ", ((1, 8),))
    monkeypatch.setattr(matched, "random_model", lambda config, device: tiny.build(tiny.MAMBA))
    (row,) = matched.rows({"mamba-1b"}, 1e9)
    assert row["forked"] and row["batch"] == matched.BATCH and row["tokens_per_ms"] > 0
    monkeypatch.setattr(matched, "random_model", broken)
    found = list(matched.rows({"gla-1b", "360m"}, 1e9, ["mamba-360m"]))
    assert {"what": "gla-1b", "skipped": "AssertionError: head_dim"} in found
    assert "mamba-360m" not in [row["what"] for row in found] and len(found) == len(matched.matched_names()) // 2


def test_a_benchmark_goes_on_from_what_such_a_machine_measured(tmp_path):
    file, machine = tmp_path / "h200.json", {"card": "H200", "torch": "2.11", "commit": "a"}
    rows = [{"what": "gla-1b", "tokens_per_ms": 1.0}, {"what": "mamba3-1b", "skipped": "no kernels"}]
    assert report.kept_rows(None, "matched", machine) == report.kept_rows(file, "matched", machine) == []
    report.keep(file, "matched", {"machine": machine, "rows": rows})
    assert report.kept_rows(file, "matched", machine) == rows
    later = report.kept_rows(file, "matched", machine | {"commit": "b"})
    assert later == [{"commit": "a"} | row for row in rows]
    report.keep(file, "matched", {"machine": machine | {"commit": "b"}, "rows": later})
    assert report.kept_rows(file, "matched", machine | {"commit": "c"}) == later, "each keeps the commit it is of"
    assert report.kept_rows(file, "matched", machine | {"card": "H100"}) == []


def test_what_was_skipped_is_measured_again_and_replaced(tmp_path, monkeypatch):
    file, machine, asked = tmp_path / "h200.json", {"card": "H200", "commit": "a"}, []
    rows = [{"what": "gla-1b", "tokens_per_ms": 1.0}, {"what": "mamba3-1b", "skipped": "no kernels"}]
    report.keep(file, "matched", {"machine": machine, "rows": rows})

    def measured(parts, copy, done):
        asked.append(done)
        yield {"what": "mamba3-1b", "tokens_per_ms": 2.0}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command, "provenance", lambda: machine)
    monkeypatch.setattr(command, "ceilings", lambda: {"copy": 1.0, "multiply": 1.0})
    monkeypatch.setattr(matched, "rows", measured)
    command.bench("matched", None, file)
    assert asked == [["gla-1b"]]
    assert json.loads(file.read_text())["matched"]["rows"] == [rows[0], {"what": "mamba3-1b", "tokens_per_ms": 2.0}]


def test_shapes_are_those_of_the_released_models():
    for config, least, most in ((shapes.BASED_1B, 1.34e9, 1.36e9), (shapes.MAMBA_1B, 1.2e9, 1.4e9)):
        model = shapes.random_model(config, "meta")
        assert least < model.n_parameters < most
        assert shapes.weight_bytes(model) == pytest.approx(2 * model.n_parameters)


def test_the_table_and_what_is_kept(tmp_path):
    rows = [
        {"what": "a", "in_graph": True, "shape": "B 1", "microseconds": 4.25, "of_copy_rate": 0.5},
        {"what": "b", "shape": "B 2", "skipped": "no fla"},
    ]
    lines = report.table(rows, "github").splitlines()
    assert "µs" in lines[0] and "50 %" in lines[2] and "B 1, in a graph" in lines[2] and "no fla" in lines[3]
    file = tmp_path / "deep" / "h200.json"
    report.keep(file, "kernels", {"rows": rows})
    report.keep(file, "decode", {"rows": []})
    assert json.loads(file.read_text()) == {"kernels": {"rows": rows}, "decode": {"rows": []}}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nothing"], "choose kernels, drift, decode"),
        (["kernels", "--only", "x"], "`bench kernels` has others, taylor"),
    ],
)
def test_what_can_not_run_is_said(flags, message):
    result = CliRunner().invoke(app, ["bench", *flags])
    assert result.exit_code == 2 and message in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU; without one, a message is checked")
def test_without_a_gpu_it_says_so():
    result = CliRunner().invoke(app, ["bench", "kernels"])
    assert result.exit_code == 2 and "no CUDA device" in result.output
