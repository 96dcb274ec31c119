"""What a model of Transformers owes the engine through its own cache: as tests/models/test_sequence_models.py for ours.

Every kind of cache is tried, at two splits; the whole conformance gate runs over all of them with `-m long`.
"""

import pytest
import torch

import causal
from recall_evals.adapters import conformance
from recall_evals.models import causal_network
from recall_evals.models.transformers_model import TransformersModel

BOUND = {"rtol": 0.0, "atol": 1e-5}
ONE_BY_ONE = "it goes on from a state one token at a time only: prompts share no prefix"
# What each library's cache was found not to do. The others do all that is asked of them.
LIMITS = {name: [ONE_BY_ONE] for name in ("mamba", "falcon_mamba", "recurrent_gemma", "jamba")}
LIMITS |= {"rwkv": ["several sequences in a batch are not answered as one: each is read and stepped alone"]}


@pytest.fixture(scope="module", params=sorted(causal.CONFIGS))
def model(request):
    return TransformersModel(causal.build(request.param))


def prompts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 257, (n,), generator=generator) for n in lengths]


def test_prefill_and_step_are_what_the_library_computes_at_once(model):
    (tokens,) = prompts(28)
    want = model.network.causal(input_ids=tokens[None], use_cache=False).logits[0]
    assert want.abs().max() > 0.3, "scores that differ"
    torch.testing.assert_close(model.forward(tokens[None])[0], want, **BOUND)
    for split in (1, 19):
        scores, state = model.prefill(tokens[:split], [split])
        torch.testing.assert_close(scores[0], want[split - 1], **BOUND)
        scores, state = model.prefill(tokens[split : split + 5], [5], state)
        torch.testing.assert_close(scores[0], want[split + 4], **BOUND)
        for i in range(split + 5, 28):
            torch.testing.assert_close(model.step(tokens[i : i + 1], state)[0], want[i], **BOUND)
        assert state.position.tolist() == [28]


def test_sequences_of_any_lengths_are_answered_as_alone_and_their_state_is_left_as_it_was(model):
    first, rest = prompts(30, 12, 47, 30), prompts(3, 3, 1, 9)  # Mistral's window holds 15
    scores, state = model.prefill(torch.cat(first), [len(p) for p in first])
    before = [{name: t.clone() for name, t in layer.items()} for layer in state.layers]
    more, after = model.prefill(torch.cat(rest), [len(p) for p in rest], state)
    for layer, old in zip(state.layers, before, strict=True):
        assert all(torch.equal(layer[name], t) for name, t in old.items())
    nexts = torch.tensor([5, 6, 7, 8])
    stepped = model.step(nexts, after)
    for i in range(4):
        one, alone = model.prefill(first[i], [len(first[i])])
        torch.testing.assert_close(scores[i], one[0], **BOUND)
        two, alone = model.prefill(rest[i], [len(rest[i])], alone)
        torch.testing.assert_close(more[i], two[0], **BOUND)
        torch.testing.assert_close(stepped[i], model.step(nexts[i : i + 1], alone)[0], **BOUND)


def test_a_fork_and_a_slot_go_on_as_if_alone(model):
    first, other = prompts(30, 55), prompts(21)[0]
    _, state = model.prefill(torch.cat(first), [30, 55])
    fork = state.select([1, 0, 1])
    fork.write([1], model.prefill(other, [21])[1])
    nexts = [torch.tensor([5, 6, 7]), torch.tensor([8, 9, 8])]
    scores = [model.step(tokens, fork) for tokens in nexts]
    for row, prompt in enumerate((first[1], other, first[1])):
        alone = model.prefill(prompt, [len(prompt)])[1]
        for tokens, got in zip(nexts, scores, strict=True):
            torch.testing.assert_close(model.step(tokens[row : row + 1], alone)[0], got[row], **BOUND)
    assert state.position.tolist() == [30, 55], "the fork is a copy"


def test_what_a_cache_can_not_do_is_found_out(model):
    assert model.limits == LIMITS.get(model.architecture, [])
    assert model.shares == (ONE_BY_ONE not in model.limits)


def test_a_state_is_measured_and_a_window_bounds_it(model):
    sizes = [model.prefill(p, [len(p)])[1].nbytes for p in prompts(30, 60, 120)]
    grows = sizes[2] - sizes[1]
    if model.architecture in ("mistral", "mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma"):
        assert grows == 0
    else:
        assert grows == 2 * (sizes[1] - sizes[0]) > 0
    if model.architecture == "mistral":  # keys and values of two layers, 15 tokens, 2 heads of 8 numbers
        assert sizes[0] == 2 * 2 * 15 * 2 * 8 * 4 + 8


def test_idle_slots_are_passed_over():
    """The engine steps them at position 0, and asks for none of their scores."""
    model = TransformersModel(causal.build("llama"))
    _, state = model.prefill(torch.cat(prompts(9, 9)), [9, 9])
    alone = state.select([1])
    state.position[0] = 0
    torch.testing.assert_close(
        model.step(torch.tensor([3, 4]), state)[1], model.step(torch.tensor([4]), alone)[0], **BOUND
    )
    state.position.zero_()
    assert not model.network.step(torch.tensor([3, 4]), state, None).any()


def test_steps_without_the_host_are_those_of_states_that_do_not_grow(model):
    """What a CUDA graph could hold; without a GPU, none is tried."""
    bound = ("mamba", "mamba2", "falcon_mamba")  # RWKV-4's batches are not exact
    assert model.network.steps_on_device == (model.architecture in bound)
    assert not model.captures


def test_a_cache_that_lies_is_not_used():
    """A difference as of a state that is lost, beside which rounding in half precision is little."""
    network = causal.build("mamba2").to(torch.bfloat16)
    whole, mixer = network.base_model.forward, network.base_model.layers[0].mixer

    def forgetful(*args, **kwargs):
        output = whole(*args, **kwargs)
        if (held := kwargs.get("cache_params") or kwargs.get("past_key_values")) is not None:
            held.layers[mixer.layer_idx].recurrent_states[0].zero_()
        return output

    network.base_model.forward = forgetful
    assert "all are read again" in TransformersModel(network).limits[0]


@pytest.mark.parametrize("name", ["mistral", "mamba"])
def test_without_a_cache_all_is_read_again(name):
    plain, again = TransformersModel(causal.build(name)), TransformersModel(causal.build(name), cached=False)
    (tokens,) = prompts(24)
    want = plain.forward(tokens[None])[0]
    _, state = again.prefill(tokens[:20], [20])
    for i in range(20, 24):
        torch.testing.assert_close(again.step(tokens[i : i + 1], state)[0], want[i], **BOUND)
    assert again.limits == ["cache=false: for each new token all before it are read again, and prompts share no prefix"]
    assert not again.shares and again.prefill(tokens, [24])[1].nbytes == 24 * 8 + 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    """bfloat16 is what a GPU runs unless told otherwise: every class must take it."""
    for name in causal.CONFIGS if dtype == torch.bfloat16 else ("gemma2", "mamba2", "qwen3_next"):
        model = TransformersModel(causal.build(name).to(dtype))
        (tokens,) = prompts(24)
        want = model.forward(tokens[None])[0, -1].double()
        scores, state = model.prefill(tokens[:23], [23])
        scores = model.step(tokens[23:], state)[0]
        if name != "jamba" or dtype == torch.float64:  # whose tiny state matters less than rounding: 0.002
            assert model.limits == LIMITS.get(name, [])
        assert model.dtype == dtype  # some heads give their scores in float32 all the same
        assert (scores.double() - want).norm() / want.norm() < (0.1 if dtype == torch.bfloat16 else 1e-6), name


def test_kernels_that_round_more_than_the_weights_are_judged_by_what_they_round_to(monkeypatch):
    """As those of Mamba-3 do, on a GPU alone."""

    def uneven(module, given, output):
        return output * (1 + 2e-3 * output.shape[1])  # a single step gives another than the whole

    def limits_and_bounds():
        causal_model = causal.build("llama")
        causal_model.model.layers[0].mlp.register_forward_hook(uneven)
        model = TransformersModel(causal_model)
        first = next(conformance.check_conformance(model))
        return model.limits, first.bound, first.verdict

    limits, bound, _ = limits_and_bounds()
    assert "all are read again" in limits[0] and bound == 1e-5
    monkeypatch.setitem(causal_network.ROUNDS_TO, "llama", torch.bfloat16)
    limits, bound, verdict = limits_and_bounds()
    assert limits == ["its kernels round to bfloat16 whatever its dtype: its answers are no more exact than in that"]
    assert (bound, verdict) == (0.5, "ok")


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(causal.CONFIGS | causal.MORE))
def test_the_whole_gate(name):
    model = TransformersModel(causal.build(name))
    findings = list(conformance.check_conformance(model))
    print(f"\n{name}: {', '.join(f'{f.name} {f.difference:.1g}' for f in findings)}")
    assert [f.name for f in findings if not f.passed] == []
