"""Each operation's packed, continued and stepped forms against its equation, in float64."""

import pytest
import torch
from torch import Tensor

from recall_evals.kernels.full_attention import reference as full_attention
from recall_evals.kernels.linear.reference import linear
from recall_evals.kernels.packing import Packing
from recall_evals.kernels.rotary.reference import apply_rotary, rotary_angles
from recall_evals.kernels.selective_scan import reference as selective_scan
from recall_evals.kernels.short_convolution import reference as short_convolution
from recall_evals.kernels.sliding_window_attention import reference as sliding
from recall_evals.kernels.taylor_linear_attention import reference as taylor

LENGTHS = [5, 1, 300, 17, 128]
TIGHT = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def split_of(packed: Tensor, lengths: list[int]) -> list[Tensor]:
    return list(packed.split(lengths))


def test_packing_pads_unpads_and_finds_the_last_token():
    packing = Packing([2, 0, 3])
    x = torch.arange(5.0)
    assert packing.pad(x).tolist() == [[0, 1, 0], [0, 0, 0], [2, 3, 4]]
    assert torch.equal(packing.unpad(packing.pad(x)), x)
    assert packing.offsets.tolist() == [0, 2, 2, 5]
    assert packing.row.tolist() == [0, 0, 2, 2, 2] and packing.within.tolist() == [0, 1, 0, 1, 2]
    assert Packing([2, 3]).last(x).tolist() == [1, 4]
    with pytest.raises(ValueError, match="lengths must be >= 0"):
        Packing([1, -1])


def test_taylor_features_are_153_for_16_and_give_the_polynomial():
    q, k = rand(7, 16), rand(7, 16)
    s = (q * k).sum(-1) / 4
    product = (taylor.taylor_features(q, 0.25) * taylor.taylor_features(k, 0.25)).sum(-1)
    assert taylor.n_features(16) == taylor.taylor_features(q, 0.25).shape[-1] == 153
    torch.testing.assert_close(product, 1 + s + s**2 / 2, **TIGHT)


@pytest.mark.parametrize("decay", [None, torch.tensor([0.875, 0.99, 1.0], dtype=torch.float64)])
@pytest.mark.parametrize("cut", [0.0, 0.3, 0.9])
def test_taylor_attention(decay, cut):
    lengths = [5, 1, 300, 17, 128, 2 * taylor.FOLD + 1]  # ends before, at and after a fold
    total = sum(lengths)
    q, k, v = rand(total, 3, 16), rand(total, 3, 16), rand(total, 3, 20)
    want = torch.cat(
        [taylor.quadratic(*x, 0.25, decay) for x in zip(*(split_of(t, lengths) for t in (q, k, v)), strict=True)]
    )
    start = torch.zeros(len(lengths), dtype=torch.int64)
    got, state = taylor.prefill(q, k, v, 0.25, Packing(lengths), start, None, decay)
    torch.testing.assert_close(got, want, **TIGHT)

    # cut anywhere, continue packed, then step: the same
    heads = [int(n * cut) for n in lengths]
    parts = [split_of(t, lengths) for t in (q, k, v)]
    first = [torch.cat([x[:n] for x, n in zip(p, heads, strict=True)]) for p in parts]
    rest = [torch.cat([x[n:-1] for x, n in zip(p, heads, strict=True)]) for p in parts]
    _, middle = taylor.prefill(*first, 0.25, Packing(heads), start, None, decay)
    sizes = [n - h - 1 for n, h in zip(lengths, heads, strict=True)]
    y, middle = taylor.prefill(*rest, 0.25, Packing(sizes), torch.tensor(heads), middle, decay)
    wanted = torch.cat([x[n:-1] for x, n in zip(split_of(want, lengths), heads, strict=True)])
    torch.testing.assert_close(y, wanted, **TIGHT)
    last = [torch.stack([x[-1] for x in p]) for p in parts]
    y = taylor.step(*last, 0.25, torch.tensor(lengths) - 1, middle, decay)
    torch.testing.assert_close(y, torch.stack([x[-1] for x in split_of(want, lengths)]), **TIGHT)
    for name in ("kv", "k_sum"):
        torch.testing.assert_close(getattr(middle, name), getattr(state, name), **TIGHT)
    for row, n in enumerate(lengths):
        for a, b in zip(middle[2:], state[2:], strict=True):
            assert torch.equal(a[row, : n % taylor.FOLD], b[row, : n % taylor.FOLD])


def test_taylor_state_in_float32_is_the_same_bits_for_every_cut():
    q, k, v = (rand(1, 2, 16).expand(70, -1, -1) * rand(70, 1, 1) for _ in range(3))
    q, k, v = q.float(), k.float(), v.float()
    start = torch.zeros(1, dtype=torch.int64)
    want, whole = taylor.prefill(q, k, v, 0.25, Packing([70]), start)
    assert whole.kv.dtype == torch.float32
    for cut in range(1, 70, 3):
        _, state = taylor.prefill(q[:cut], k[:cut], v[:cut], 0.25, Packing([cut]), start)
        for t in range(cut, 70):
            y = taylor.step(q[t : t + 1], k[t : t + 1], v[t : t + 1], 0.25, start + t, state)
            assert torch.equal(y[0], want[t]), f"cut at {cut}, token {t}"
        assert torch.equal(state.kv, whole.kv) and torch.equal(state.k_sum, whole.k_sum)


def test_taylor_absorb_sums_over_whole_sequences():
    k, v = rand(sum(LENGTHS), 2, 8), rand(sum(LENGTHS), 2, 5)
    state = taylor.absorb(k, v, 0.3, Packing(LENGTHS))
    for row, (keys, values) in enumerate(zip(split_of(k, LENGTHS), split_of(v, LENGTHS), strict=True)):
        features = taylor.taylor_features(keys, 0.3)
        torch.testing.assert_close(state.kv[row], torch.einsum("lhf,lhe->hfe", features, values), **TIGHT)
        torch.testing.assert_close(state.k_sum[row], features.sum(0), **TIGHT)


def naive_window(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    rows = []
    for i in range(len(q)):
        first = 0 if window is None else max(0, i - window + 1)
        weights = (torch.einsum("hd,jhd->hj", q[i], k[first : i + 1]) * 0.5).softmax(-1)
        rows.append(torch.einsum("hj,jhd->hd", weights, v[first : i + 1]))
    return torch.stack(rows)


@pytest.mark.parametrize("window", [1, 4, 33, None])
def test_windowed_and_full_attention(window):
    lengths = [5, 1, 300, 17, 129]
    q, k, v = (rand(sum(lengths), 2, 8) for _ in range(3))
    parts = [split_of(t, lengths) for t in (q, k, v)]
    want = [naive_window(*x, window) for x in zip(*parts, strict=True)]

    def prefill(qkv: list[Tensor], sizes: list[int], position: Tensor, state):
        if window is None:
            return full_attention.prefill(*qkv, 0.5, Packing(sizes), position, state)
        return sliding.prefill(*qkv, 0.5, window, Packing(sizes), position, state)

    start = torch.zeros(5, dtype=torch.int64)
    got, _ = prefill([q, k, v], lengths, start, None)
    torch.testing.assert_close(got, torch.cat(want), **TIGHT)

    heads = [n // 2 for n in lengths]
    _, state = prefill([torch.cat([x[:n] for x, n in zip(p, heads, strict=True)]) for p in parts], heads, start, None)
    sizes = [n - h - 1 for n, h in zip(lengths, heads, strict=True)]
    rest = [torch.cat([x[h:-1] for x, h in zip(p, heads, strict=True)]) for p in parts]
    y, state = prefill(rest, sizes, torch.tensor(heads), state)
    torch.testing.assert_close(y, torch.cat([w[h:-1] for w, h in zip(want, heads, strict=True)]), **TIGHT)
    position = torch.tensor(lengths) - 1
    last = [torch.stack([x[-1] for x in p]) for p in parts]
    if window is None:
        state = tuple(torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 1)) for x in state)
        y = full_attention.step(*last, 0.5, position, state)
    else:
        assert state[0].shape[2] == window, "the ring holds exactly the keys of the window"
        y = sliding.step(*last, 0.5, position, state)
    torch.testing.assert_close(y, torch.stack([w[-1] for w in want]), **TIGHT)


@pytest.mark.parametrize("gated", [True, False])
def test_short_convolution_matches_conv1d_and_continues(gated):
    total, width, taps = sum(LENGTHS), 6, 4
    x, weight, bias = rand(total, width), rand(width, taps), rand(width)
    gate = rand(total, width) if gated else None
    want = []
    for part in split_of(x, LENGTHS):
        y = torch.nn.functional.conv1d(part.T[None], weight[:, None], bias, padding=taps - 1, groups=width)
        want.append(torch.nn.functional.silu(y[0, :, : len(part)].T))
    packed = torch.cat(want) * (gate if gate is not None else 1)
    got, inputs = short_convolution.prefill(x, weight, bias, gate, Packing(LENGTHS))
    torch.testing.assert_close(got, packed, **TIGHT)
    assert inputs.shape == (5, taps - 1, width)

    row = split_of(x, LENGTHS)[2]
    row_gate = split_of(gate, LENGTHS)[2] if gate is not None else None
    _, inputs = short_convolution.prefill(
        row[:2], weight, bias, row_gate[:2] if row_gate is not None else None, Packing([2])
    )
    for t in range(2, 12):
        y = short_convolution.step(
            row[t : t + 1], weight, bias, row_gate[t : t + 1] if row_gate is not None else None, inputs
        )
        torch.testing.assert_close(y[0], split_of(packed, LENGTHS)[2][t], **TIGHT)


def test_selective_scan_continues_and_ignores_neighbours():
    lengths = [5, 1, 40]
    total, width, n = sum(lengths), 6, 3
    u, b, c = rand(total, width), rand(total, n), rand(total, n)
    dt, a, skip = rand(total, width).exp() / 10, -rand(width, n).exp(), rand(width)
    got, state = selective_scan.prefill(u, dt, a, b, c, skip, Packing(lengths))
    offsets = Packing(lengths).offsets.tolist()
    for row in range(3):
        h = torch.zeros(width, n, dtype=torch.float64)
        for t in range(offsets[row], offsets[row + 1]):
            h = torch.exp(dt[t][:, None] * a) * h + (dt[t] * u[t])[:, None] * b[t]
            torch.testing.assert_close(got[t], h @ c[t] + skip * u[t], **TIGHT)
        torch.testing.assert_close(state[row], h, **TIGHT)
    part = slice(offsets[2], offsets[2] + 39)
    _, before = selective_scan.prefill(u[part], dt[part], a, b[part], c[part], skip, Packing([39]))
    y = selective_scan.step(u[-1:], dt[-1:], a, b[-1:], c[-1:], skip, before)
    torch.testing.assert_close(y[0], got[-1], **TIGHT)
    torch.testing.assert_close(before[0], state[2], **TIGHT)


def test_rotary_turns_pairs_by_relative_position_and_leaves_the_rest():
    x = rand(1, 2, 10)
    cos, sin = rotary_angles(torch.tensor([3]), 5, 10000.0, torch.float64)
    assert cos.shape[-1] == 3, "an odd dimension rounds up: 3 angles turn 6 dimensions"
    y = apply_rotary(x, cos, sin)
    assert torch.equal(y[..., 6:], x[..., 6:])
    exponents = torch.tensor([0.0, 2 / 5, 4 / 5], dtype=torch.float64)
    angle = 3 / 10000.0**exponents
    torch.testing.assert_close(y[..., :3], x[..., :3] * angle.cos() - x[..., 3:6] * angle.sin(), rtol=0, atol=1e-6)
    torch.testing.assert_close(y[..., 3:6], x[..., :3] * angle.sin() + x[..., 3:6] * angle.cos(), rtol=0, atol=1e-6)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="no MKL: would have checked its rounding of a row")
def test_linear_rounds_a_row_the_same_in_every_batch():
    x, weight = torch.randn(50, 64), torch.randn(257, 64)
    whole = linear(x, weight)
    for rows in (1, 2, 3, 5, 7, 8, 9, 16, 33):
        assert torch.equal(linear(x[:rows], weight), whole[:rows]), f"{rows} rows round otherwise"
    torch.testing.assert_close(whole, x @ weight.T)
