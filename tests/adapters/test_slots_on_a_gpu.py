"""Decoding in CUDA graphs: the same bits as the steps they hold, for every architecture, forks included."""

import pytest
import torch

import causal
import tiny
from recall_evals.adapters.conformance import check_conformance
from recall_evals.adapters.decoding import Generation
from recall_evals.adapters.engine import Engine
from recall_evals.adapters.slots import DeviceSlots
from recall_evals.models.transformers_model import TransformersModel

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs a GPU; would check graphs against their steps, forks and the gate, in bfloat16 and float32",
)


@pytest.fixture(params=[*sorted(tiny.CONFIGS | tiny.BASELINES), "transformers mamba2", "transformers falcon_mamba"])
def model(request):
    if request.param.startswith("transformers "):
        model = TransformersModel(causal.build(request.param.split()[1]).to("cuda", torch.bfloat16))
        assert model.captures, model.network.abilities
        return model
    # Flash attention takes heads of a multiple of 8 dimensions; these have 16.
    return tiny.build((tiny.CONFIGS | tiny.BASELINES)[request.param]).to("cuda", torch.bfloat16).eval()


def prompts(n: int, least: int = 30) -> list[list[int]]:
    draw = torch.Generator().manual_seed(1)
    sizes = torch.randint(least, 60, (n,), generator=draw).tolist()
    return [torch.randint(1, 257, (size,), generator=draw).tolist() for size in sizes]


@torch.inference_mode()
def test_graphs_give_the_bits_of_their_steps(model):
    """Sizes 1, 4 and 7 of 7 slots, each begun three times, so that the first is uncaptured, and the others replayed."""
    answers = []
    for captured in (False, True):
        read = prompts(7)
        _, state = model.prefill(torch.tensor([t for p in read for t in p], device="cuda"), [len(p) for p in read])
        state.reserve(200)
        slots = DeviceSlots(model, state, 257, captured)
        found = []
        for rows in ([3], [6, 0, 2, 5], [0, 1, 2, 3, 4, 5, 6]) * 3:
            found.append(slots.greedy(rows, [7] * len(rows), 8))
            found.append(slots.scores(rows, [9] * len(rows)).tolist())
        assert len(slots._graphs) == 3 * captured
        answers.append((found, [x.clone() for layer in state.layers for x in layer.values()]))
    assert answers[0][0] == answers[1][0]
    assert all(map(torch.equal, answers[0][1], answers[1][1]))


@torch.inference_mode()
def test_forks_go_on_alone(model):
    (prompt,) = prompts(1, 40)
    _, one = model.prefill(torch.tensor(prompt, device="cuda"), [len(prompt)])
    state = one.select([0, 0, 0])
    state.reserve(200)
    slots = DeviceSlots(model, state, 257)
    together, alone = slots.greedy([0, 1], [5, 6], 8), []
    for row, token in ((2, 6), (2, 5)):
        slots.write([row], one)
        alone.append(slots.greedy([row], [token], 8)[0][0])
    # Products of other shapes round otherwise in bfloat16; the first tokens come from equal states.
    assert [x[:2] for x in together[0]] == [x[:2] for x in reversed(alone)]
    slots.write([0, 1], one.select([0, 0]))
    again = slots.greedy([0, 1], [5, 5], 8)
    assert again[0][0] == again[0][1] and again[1][0] == again[1][1]


def test_the_engine_answers_as_without_graphs(model, monkeypatch):
    def answers() -> list[str | None]:
        jobs = [Generation(prompt, ["B"], 5 + i) for i, prompt in enumerate(prompts(20))]
        engine = Engine(model, slots=4, vocabulary=257, end=0, decode=lambda ids: "".join(map(chr, ids)), quiet=True)
        engine.generate(jobs)
        return [job.text for job in jobs]

    captured = answers()
    monkeypatch.setattr(
        "recall_evals.adapters.slots.DeviceSlots._step", lambda self, size: self._body(size), raising=True
    )
    assert answers() == captured


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_passes(model, dtype):
    findings = list(check_conformance(model.to(dtype)))
    assert findings
    assert [finding for finding in findings if not finding.passed] == []
