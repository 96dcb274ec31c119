"""What every architecture owes the engine: prefill + step = forward, fork = no fork, packed = one by one."""

import pytest
import torch

import tiny
from recall_evals.models import State

BOUND = {"rtol": 0.0, "atol": 1e-5}


CONFIGS = tiny.CONFIGS | tiny.BASELINES


@pytest.fixture(params=sorted(CONFIGS))
def model(request):
    return tiny.build(CONFIGS[request.param])


def prompts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 257, (n,), generator=generator) for n in lengths]


def test_prefill_and_step_are_forward_at_every_split(model):
    (tokens,) = prompts(40)
    if model.shortest_split:
        # Only the cached path defines what is read after the encoder: compare splits with one another.
        want = torch.stack([model.prefill(tokens[:n], [n])[0][0] for n in range(model.shortest_split, 41)])
        torch.testing.assert_close(model.forward(tokens[None])[0, model.shortest_split - 1 :], want, **BOUND)
    want = model.forward(tokens[None])[0]
    for split in range(max(1, model.shortest_split), 41, 1 if model.architecture in tiny.CONFIGS else 6):
        scores, state = model.prefill(tokens[:split], [split])
        torch.testing.assert_close(scores[0], want[split - 1], **BOUND)
        for i in range(split, 40):
            torch.testing.assert_close(model.step(tokens[i : i + 1], state)[0], want[i], **BOUND)
        assert state.position.tolist() == [40]


def test_packed_is_one_by_one_and_continues_from_a_state(model):
    first, rest = prompts(30, 26, 77, 25), prompts(3, 40, 1, 9)
    scores, state = model.prefill(torch.cat(first), [len(p) for p in first])
    more, after = model.prefill(torch.cat(rest), [len(p) for p in rest], state)
    for i in range(4):
        one, alone = model.prefill(first[i], [len(first[i])])
        torch.testing.assert_close(scores[i], one[0], **BOUND)
        two, alone = model.prefill(rest[i], torch.tensor([len(rest[i])]), alone)
        torch.testing.assert_close(more[i], two[0], **BOUND)
        for layer, mine in zip(alone.layers, after.layers, strict=True):
            for name, value in layer.items():
                got = mine[name][i]
                if name.startswith("cached"):
                    got = got[: value.shape[1]]
                torch.testing.assert_close(got, value[0], rtol=1e-5, atol=1e-4)


def test_prefill_leaves_the_given_state_as_it_was(model):
    first, rest = prompts(30, 12)
    _, state = model.prefill(first, [30])
    before = [{name: t.clone() for name, t in layer.items()} for layer in state.layers]
    model.prefill(rest, [12], state)
    for layer, old in zip(state.layers, before, strict=True):
        assert all(torch.equal(layer[name], t) for name, t in old.items())
    assert state.position.tolist() == [30]


def test_a_fork_goes_on_as_if_alone(model):
    first = prompts(30, 55)
    _, state = model.prefill(torch.cat(first), [30, 55])
    fork = state.select([1, 0, 1])
    nexts = torch.tensor([5, 6, 7])
    scores = model.step(nexts, fork)
    for row, (source, token) in enumerate([(1, 5), (0, 6), (1, 7)]):
        alone = state.select([source])
        torch.testing.assert_close(model.step(torch.tensor([token]), alone)[0], scores[row], **BOUND)
    assert state.position.tolist() == [30, 55], "the fork is a copy"


def test_write_gives_a_slot_to_another_sequence(model):
    first, other = prompts(60, 27, 90), prompts(33)[0]
    _, slots = model.prefill(torch.cat(first), [60, 27, 90])
    _, fresh = model.prefill(other, [33])
    slots.write([1], fresh)
    scores = model.step(torch.tensor([1, 2, 3]), slots)
    torch.testing.assert_close(scores[1], model.step(torch.tensor([2]), fresh)[0], **BOUND)
    assert slots.position.tolist() == [61, 34, 91]


def test_nbytes_is_measured_and_fixed_states_do_not_grow(model):
    sizes = [model.prefill(p, [len(p)])[1].nbytes for p in prompts(30, 300)]
    if model.architecture in ("attention", "hyena"):
        assert sizes[1] > 8 * sizes[0]
    elif model.architecture == "h3":  # of which one layer is attention
        fixed = [sizes[i] - 2 * 4 * 64 * n for i, n in enumerate((30, 300))]
        assert fixed[0] == fixed[1]
    else:
        assert sizes[0] == sizes[1]


def test_long_decoding_does_not_leave_forward(model):
    (tokens,) = prompts(400)
    _, state = model.prefill(tokens[:30], [30])
    for i in range(30, 400):
        scores = model.step(tokens[i : i + 1], state)
    torch.testing.assert_close(scores[0], model.prefill(tokens, [400])[0][0], **BOUND)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_with_a_float32_state(dtype):
    for name, config in CONFIGS.items():
        model = tiny.build(config)
        tokens = prompts(50)[0]
        want = model.prefill(tokens, [50])[0]
        half = model.to(dtype)
        scores, state = half.prefill(tokens[:40], [40])
        scores, state = half.prefill(tokens[40:], [10], state)
        assert scores.dtype == dtype
        assert (scores.float() - want).norm() / want.norm() < 0.1, name
        long_memory = {
            "based": ("kv", 1),
            "jrt": ("kv", 1),
            "mamba": ("ssm", 0),
            "h3": ("ssm", 0),
            "rwkv": ("wkv", 0),
        }.get(name)
        if long_memory:
            assert state.layers[long_memory[1]][long_memory[0]].dtype == torch.float32


def test_calls_that_do_not_fit_are_refused(model):
    (tokens,) = prompts(30)
    _, state = model.prefill(tokens, [30])
    for call, message in [
        (lambda: model.prefill(tokens, [29]), "tokens must be"),
        (lambda: model.prefill(tokens, [30, 0]), "every length must be >= 1"),
        (lambda: model.prefill(tokens, [15, 15], state), "the state holds 1 sequences"),
        (lambda: model.step(torch.tensor([1, 2]), state), "one a sequence of the state"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    for rows in ([1], [-1], torch.tensor([True])):
        with pytest.raises(IndexError, match="rows"):
            state.select(rows)


def test_state_of_no_rows():
    state = State(torch.zeros(2, dtype=torch.int64), [{"x": torch.zeros(2, 3)}])
    assert len(state.select([])) == 0 and state.select([]).nbytes == 0


def test_gradients_flow_through_forward():
    for name, config in CONFIGS.items():
        model = tiny.build(config).requires_grad_(True)
        model.forward(torch.arange(60).reshape(2, 30)).square().mean().backward()
        missing = [n for n, p in model.named_parameters() if p.grad is None]
        assert not missing, f"{name}: {missing}"
