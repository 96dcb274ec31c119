"""Steps of some rows of a state, in any order: as the same sequences one by one; in Triton as in the references."""

import pytest
import torch

import tiny
from interpreter import needs_interpreter, run_interpreted
from recall_evals.kernels.precision import plain_sums

CONFIGS = tiny.CONFIGS | tiny.BASELINES
READ, LENGTH, SEQUENCES = 30, 50, 3
ROWS = torch.tensor([3, 0, 1])  # of sequence i; row 2 is idle


def stepped_in_slots(model, tokens):
    """Scores after each of the tokens from READ on, `[B, length - READ, V]`; the rows of the state are slots."""
    length = tokens.shape[1]
    _, state = model.prefill(tokens[:, :READ].flatten(), [READ] * SEQUENCES)
    state = state.select([1, 2, 2, 0])
    state.reserve(length)
    idle = state.select([2])
    scores = [model.logits(model.advance(tokens[:, i], state, ROWS)) for i in range(READ, length)]
    for mine, before in zip(state.layers, idle.layers, strict=True):
        for name, x in before.items():
            assert torch.equal(mine[name][2, : x.shape[1]] if name.startswith("cached") else mine[name][2], x[0]), name
    assert state.position.tolist() == [length, length, READ, length]
    return torch.stack(scores, dim=1)


def inputs():
    return torch.randint(257, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", sorted(CONFIGS))
@torch.no_grad()
def test_rows_of_a_state_step_as_they_would_alone(name):
    model, tokens = tiny.build(CONFIGS[name]), inputs()
    want = []
    for row in tokens:
        _, state = model.prefill(row[:READ], [READ])
        want.append(torch.cat([model.step(token[None], state) for token in row[READ:]]))
    torch.testing.assert_close(stepped_in_slots(model, tokens), torch.stack(want), rtol=0, atol=1e-5)


@needs_interpreter("a decoding step of every architecture through all Triton forms")
def test_triton_steps_under_the_interpreter():
    run_interpreted(__file__)


@torch.no_grad()
def check_under_the_interpreter():
    """In float32, summed in float32: as few steps, for they are slow here, as lead through a fold (of 16 tokens)."""
    for name in sorted(CONFIGS.keys() - {"hyena"}):  # which has none
        config = CONFIGS[name]
        tokens = inputs()[:, : READ + 5]
        exact = stepped_in_slots(tiny.build(config).double(), tokens)
        with plain_sums():
            fast = stepped_in_slots(tiny.build(config), tokens)
        error = (fast - exact).abs().max().item()
        assert 0 < error < 1e-4, f"{name}: {error:.1e} of logits up to {exact.abs().max():.0f}"


if __name__ == "__main__":
    check_under_the_interpreter()
