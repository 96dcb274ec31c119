"""The conformance gate passes what is sound, and finds every kind of fault that it is there for."""

import json
from collections.abc import Callable

import pytest
import torch
from lm_eval.api.instance import Instance
from typer.testing import CliRunner, Result

import tiny
from recall_evals.adapters.conformance import ConformanceError, Finding, check_conformance, summary
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
ALL = [STEP, BATCH, PACKED, FORK, TEXTS, SCORES, KERNELS, DRIFT]


def short(finding: Finding) -> str:
    return finding.name.split(" over ")[0]


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    monkeypatch.setattr("recall_evals.adapters.conformance.DRIFT", 300)


def failed(model: SequenceModel) -> set[str]:
    return {short(finding) for finding in check_conformance(model) if not finding.passed}


@pytest.mark.parametrize("name", tiny.FIXTURES)
def test_the_golden_models_pass(name, monkeypatch):
    monkeypatch.setattr("recall_evals.adapters.conformance.DRIFT", 2000)
    model = load_model(tiny.shared(f"fixtures/{name}", f"the conformance gate on {name}"))
    findings = list(check_conformance(model))
    assert [short(f) for f in findings] == ALL
    assert not [f for f in findings if not f.passed]
    assert next(f for f in findings if f.name == KERNELS).difference > 0, "float32 is not float64"


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.bfloat16) for name in tiny.CONFIGS), ("based", torch.float64)]
)
def test_other_precisions_pass(name, dtype):
    assert not failed(tiny.build(tiny.CONFIGS[name]).to(dtype))


def test_few_positions_suffice():
    assert not failed(tiny.build(tiny.changed(tiny.ATTENTION, n_positions=64)))
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
    model = tiny.build(tiny.BASED)
    break_it(model, monkeypatch)
    assert found <= failed(model)


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
    folder = tiny.save(tmp_path / "based", tiny.BASED)
    good = command(str(folder))
    assert good.exit_code == 0, good.output
    assert all(f"| {name}" in good.stdout for name in ALL)
    assert "8 of 8 checks passed" in good.stdout
    monkeypatch.setattr("recall_evals.adapters.conformance.LAYERS", {torch.float32: 0.0})
    bad = command(str(folder))
    assert bad.exit_code == 1 and "FAILED" in bad.stdout and "7 of 8 checks passed" in bad.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nowhere"], "no such folder"),
        ([".", "--dtype", "int8"], "dtype='int8' is unknown; choose one of float32, bfloat16, float16, float64"),
        ([".", "--device", "gpu9"], "device='gpu9' can't be used (Invalid device string: 'gpu9'); here there is cpu"),
    ],
)
def test_what_can_not_run_is_one_line_and_exit_2(arguments, message):
    refused = command(*arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_check_true_runs_it_first_and_results_carry_it(tmp_path):
    lm = BasedLM(str(tiny.save(tmp_path / "based", tiny.BASED)), check=True, device="cpu")
    found = lm.get_model_info()["conformance"]
    assert found["passed"] and set(found["checks"]) >= {STEP, TEXTS}
    assert json.loads(json.dumps(found)) == found
    assert lm.generate_until([Instance("generate_until", {}, ("x", {"until": [], "max_gen_toks": 2}), 0)])
    assert lm.get_model_info()["prompt_tokens"] == 1, "the gate's own work is not counted"
    assert BasedLM(str(tmp_path / "based"), device="cpu").get_model_info()["conformance"] is None


def test_a_model_that_fails_is_refused(tmp_path, monkeypatch):
    folder = tiny.save(tmp_path / "based", tiny.BASED)
    monkeypatch.setattr("recall_evals.adapters.conformance.LOGITS", {torch.float32: -1.0})
    with pytest.raises(ConformanceError, match=r"prefill \+ step = forward: 0 logits, bound -1; .*leave check=true"):
        BasedLM(str(folder), check=True, device="cpu")


def test_a_summary_of_findings_that_failed():
    model = tiny.build(tiny.BASED)
    model.transformer.layers[1].mixer.proj_v.weight[0, 0] = torch.nan
    assert summary(list(check_conformance(model)), 1.0)["passed"] is False
