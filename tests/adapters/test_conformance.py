"""The conformance gate passes what is sound, and finds every kind of fault that it is there for."""

import json
from collections.abc import Callable

import pytest
import torch
from lm_eval.api.instance import Instance
from typer.testing import CliRunner, Result

import tiny
from recall_evals.adapters.conformance import ConformanceError, Finding, _Gate, check_conformance, summary
from recall_evals.adapters.layer_oracle import relative_difference
from recall_evals.adapters.lm import BasedLM
from recall_evals.evals.cli import app
from recall_evals.models import load_model
from recall_evals.models.based import LinearAttention
from recall_evals.models.sequence_model import SequenceModel
from recall_evals.models.state import State

STEP, BATCH, PACKED, FORK = (
    "prefill + step = forward",
    "any batch = one by one",
    "packed = one by one",
    "fork = no fork",
)
TEXTS, SCORES = "order and neighbours irrelevant: texts", "order and neighbours irrelevant: scores"
KERNELS, DRIFT = "kernels = float64 oracle", "drift"
# Each check, in the order of the gate, and its method there.
CHECKS = {
    STEP: "prefill_and_step",
    BATCH: "batches",
    PACKED: "packing",
    FORK: "forks",
    TEXTS: "texts",
    SCORES: "log_likelihoods",
    KERNELS: "layers",
    DRIFT: "drift",
}
ALL = list(CHECKS)
# One layer of each kind: a second convolution shows nothing more, and the gate is of single steps.
BASED, JRT = (tiny.changed(config, n_layer=3) for config in (tiny.BASED, tiny.JRT))
ONE_LAYER = tiny.changed(tiny.MAMBA, n_layer=1)  # where only what becomes of the findings is looked at


def short(finding: Finding) -> str:
    return finding.name.split(" over ")[0]


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    monkeypatch.setattr("recall_evals.adapters.conformance.DRIFT", 300)


def measured(model: SequenceModel, check: str) -> Finding:
    """One check of the gate, alone."""
    with torch.inference_mode():
        finding: Finding = getattr(_Gate(model, 0), CHECKS[check])()
    assert short(finding) == check
    return finding


def failed(model: SequenceModel) -> set[str]:
    return {short(finding) for finding in check_conformance(model) if not finding.passed}


@pytest.mark.parametrize("name", tiny.FIXTURES)
def test_the_golden_models_pass(name, monkeypatch):
    if name == "based_tiny":  # as many steps as a user's run has, of the sums that grow with them
        monkeypatch.setattr("recall_evals.adapters.conformance.DRIFT", 2000)
    model = load_model(tiny.shared(f"fixtures/{name}", f"the conformance gate on {name}"))
    findings = list(check_conformance(model))
    assert [short(f) for f in findings] == ALL
    assert not [f for f in findings if not f.passed]
    assert next(f for f in findings if f.name == KERNELS).difference > 0, "float32 is not float64"


def test_float64_passes():
    assert not failed(tiny.build(BASED).double())


@pytest.mark.parametrize("config", [tiny.ATTENTION, BASED, JRT, tiny.MAMBA], ids=["attention", "based", "jrt", "mamba"])
def test_half_precision_passes(config):
    model = tiny.build(config).bfloat16()
    assert all(measured(model, check).passed for check in CHECKS if check != TEXTS)


def test_texts_have_no_bound_in_half_precision():
    finding = measured(tiny.build(ONE_LAYER).bfloat16(), TEXTS)
    assert finding.bound is None and finding.passed


def test_few_positions_suffice():
    assert not failed(tiny.build(tiny.changed(tiny.ATTENTION, n_positions=64, n_layer=1)))
    with pytest.raises(ValueError, match="holds 16 positions; the gate needs 25"):
        list(check_conformance(tiny.build(tiny.changed(tiny.ATTENTION, n_positions=16))))


# -- every fault is found -------------------------------------------------------------------------------------------


def steps_see_their_neighbours(model: SequenceModel, monkeypatch) -> None:
    right = model.advance

    def advance(tokens: torch.Tensor, state: State) -> torch.Tensor:
        hidden = right(tokens, state)
        return hidden + 1e-4 * hidden.mean(0)

    monkeypatch.setattr(model, "advance", advance)


def prompts_see_their_neighbours(model: SequenceModel, monkeypatch) -> None:
    right = model.extend

    def extend(tokens, packing, state, pads=None):
        hidden, after = right(tokens, packing, state, pads)
        return hidden + 1e-4 * torch.nn.functional.pad(hidden[:-1], (0, 0, 1, 0)) * (packing.row > 0)[:, None], after

    monkeypatch.setattr(model, "extend", extend)


def forks_share_memory(model: SequenceModel, monkeypatch) -> None:
    right = State.select

    def select(self: State, rows) -> State:
        fork = right(self, rows)
        monkeypatch.setattr(State, "select", right)  # once: PyTorch itself refuses much of what such states lead to
        for mine, theirs in zip(self.layers, fork.layers, strict=True):
            for name in theirs:
                if name.startswith("ring"):
                    mine[name] = theirs[name][:1]
        return fork

    monkeypatch.setattr(State, "select", select)


def steps_count_one_too_many(model: SequenceModel, monkeypatch) -> None:
    right = model.advance

    def advance(tokens: torch.Tensor, state: State) -> torch.Tensor:
        state.position += 1
        try:
            return right(tokens, state)
        finally:
            state.position -= 1

    monkeypatch.setattr(model, "advance", advance)


def slots_keep_the_last_sequence(model: SequenceModel, monkeypatch) -> None:
    right = State.write

    def write(self: State, rows, other: State) -> None:
        old = [layer["inputs"].clone() for layer in self.layers if "inputs" in layer]
        right(self, rows, other)
        for layer in self.layers:
            if "inputs" in layer:
                layer["inputs"].copy_(old.pop(0))

    monkeypatch.setattr(State, "write", write)


def a_kernel_is_slightly_wrong(model: SequenceModel, monkeypatch) -> None:
    """The same in every batch and split, so that only an oracle can tell."""
    right = LinearAttention.output

    def output(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return right(self, x, y) * (1.0001 if x.dtype == torch.float32 else 1)

    monkeypatch.setattr(LinearAttention, "output", output)


def the_state_is_rounded(model: SequenceModel, monkeypatch) -> None:
    right = model.advance

    def advance(tokens: torch.Tensor, state: State) -> torch.Tensor:
        hidden = right(tokens, state)
        for layer in state.layers:
            if "kv" in layer:
                layer["kv"].copy_(layer["kv"].bfloat16().float())
        return hidden

    monkeypatch.setattr(model, "advance", advance)


def scores_are_not_numbers(model: SequenceModel, monkeypatch) -> None:
    model.transformer.layers[1].mixer.proj_v.weight[0, 0] = torch.nan


@pytest.mark.parametrize(
    ("break_it", "found"),
    [
        (steps_see_their_neighbours, {BATCH, FORK}),
        (prompts_see_their_neighbours, {BATCH, PACKED, SCORES}),
        (forks_share_memory, {FORK}),
        (steps_count_one_too_many, {STEP, DRIFT}),
        (slots_keep_the_last_sequence, {TEXTS}),
        (a_kernel_is_slightly_wrong, {KERNELS}),
        (the_state_is_rounded, {STEP, DRIFT}),
        (scores_are_not_numbers, set(ALL) - {TEXTS}),
    ],
)
def test_a_fault_is_found(break_it: Callable[..., None], found: set[str], monkeypatch):
    monkeypatch.setattr("recall_evals.adapters.conformance.DRIFT", 130)
    model = tiny.build(BASED)
    break_it(model, monkeypatch)
    assert not [check for check in found if measured(model, check).passed]


def test_relative_difference():
    one = torch.tensor([1.0, -4.0])
    assert relative_difference(one, torch.tensor([1.0, -4.0])) == 0
    assert relative_difference(one, torch.tensor([3.0, -4.0])) == 0.5
    assert relative_difference(torch.ones(0), torch.ones(0)) == 0
    assert torch.isnan(torch.tensor(relative_difference(one * torch.nan, one)))


# -- where users meet it --------------------------------------------------------------------------------------------


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


def test_the_command_prints_a_line_a_check_and_exits_by_the_result(tmp_path, monkeypatch):
    folder = tiny.save(tmp_path / "mamba", ONE_LAYER)
    good = command(str(folder))
    assert good.exit_code == 0, good.output
    assert all(f"| {name}" in good.stdout for name in ALL)
    assert "8 of 8 checks passed" in good.stdout
    monkeypatch.setattr("recall_evals.adapters.conformance.LAYERS", {torch.float32: 0.0})
    bad = command(str(folder))
    assert bad.exit_code == 1 and "FAILED" in bad.stdout and "7 of 8 checks passed" in bad.stdout


def test_a_check_that_can_not_be_made_is_not_called_passed(tmp_path, monkeypatch):
    monkeypatch.setattr("recall_evals.adapters.conformance.DRIFT", 10)
    monkeypatch.setattr("recall_evals.models.mamba.MambaModel.on_cpu", False)
    ran = command(str(tiny.save(tmp_path / "mamba", ONE_LAYER)))
    (row,) = [line.split("|") for line in ran.stdout.splitlines() if KERNELS in line]
    assert [cell.strip() for cell in row[2:6]] == ["-", "1e-05", "relative", "not made"]
    assert ran.exit_code == 0 and "7 of 8 checks passed, 1 could not be made, in" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nowhere"], "no such folder"),
        ([".", "--dtype", "int8"], "dtype='int8' is unknown; choose one of auto, float32, bfloat16, float16, float64"),
        ([".", "--device", "gpu9"], "device='gpu9' can't be used (Invalid device string: 'gpu9'); here there is cpu"),
    ],
)
def test_what_can_not_run_is_one_line_and_exit_2(arguments, message):
    refused = command(*arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_check_true_runs_it_first_and_results_carry_it(tmp_path):
    lm = BasedLM(str(tiny.save(tmp_path / "mamba", ONE_LAYER)), check=True, device="cpu")
    found = lm.get_model_info()["conformance"]
    assert found["passed"] and set(found["checks"]) >= {STEP, TEXTS}
    assert json.loads(json.dumps(found)) == found
    assert lm.generate_until([Instance("generate_until", {}, ("x", {"until": [], "max_gen_toks": 2}), 0)])
    assert lm.get_model_info()["prompt_tokens"] == 1, "the gate's own work is not counted"
    assert BasedLM(str(tmp_path / "mamba"), device="cpu").get_model_info()["conformance"] is None


def test_a_model_that_fails_is_refused(tmp_path, monkeypatch):
    folder = tiny.save(tmp_path / "mamba", ONE_LAYER)
    monkeypatch.setattr("recall_evals.adapters.conformance.LOGITS", {torch.float32: -1.0})
    with pytest.raises(ConformanceError, match=r"prefill \+ step = forward: 0 logits, bound -1; .*leave check=true"):
        BasedLM(str(folder), check=True, device="cpu")


def test_a_summary_of_findings_that_failed():
    good, bad = (Finding(name, value, 1e-5, "logits", "") for name, value in ((STEP, 0.0), (BATCH, float("nan"))))
    assert [summary(found, 1.0)["passed"] for found in ([good], [good, bad], [bad, good])] == [True, False, False]
    unmade = summary([good, Finding(KERNELS, None, 1e-5, "relative", "")], 1.0)
    assert unmade["passed"] and unmade["checks"][KERNELS]["difference"] is None
