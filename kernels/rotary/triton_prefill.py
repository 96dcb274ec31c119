"""Rotary embedding of all queries and keys of packed prompts, in one Triton kernel: the equation of `reference.py`."""

import triton
import triton.language as tl
from torch import Tensor

ROWS = 8  # heads of tokens that a program turns, of q and of k


@triton.jit
def _turn(  # type: ignore[no-untyped-def]
    x, out, cos, sin,  # [E] of each row's head; [angles] of its token
    e, inside, n, E: tl.constexpr,
):  # fmt: skip
    """Dimensions e and e + n form a pair, e < n; the others stay."""
    first, turned = e < n, e < 2 * n
    pair = tl.where(first, e + n, e - n)
    angle = tl.where(first, e, e - n)
    both = inside & turned[None, :]
    own = tl.load(x + e[None, :], mask=inside, other=0.0)
    other = tl.load(x + pair[None, :], mask=both, other=0.0).to(tl.float32)
    c = tl.load(cos + angle[None, :], mask=both, other=1.0).to(tl.float32)
    s = tl.load(sin + angle[None, :], mask=both, other=0.0).to(tl.float32)
    result = own.to(tl.float32) * c + tl.where(first[None, :], -other, other) * s
    tl.store(out + e[None, :], result.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["T"])
def _rotate(  # type: ignore[no-untyped-def]
    q, k, q_out, k_out,  # [T, H, E]
    q_row, q_head, k_row, k_head,  # strides
    cos, sin, n,  # [T, n] twice
    T, H: tl.constexpr, E: tl.constexpr, EP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    t, h = i // H, i % H
    e = tl.arange(0, EP)
    inside = (t < T)[:, None] & (e < E)[None, :]
    cos += (t * n)[:, None]
    sin += (t * n)[:, None]
    to = (i * E)[:, None]
    _turn(q + (t * q_row + h * q_head)[:, None], q_out + to, cos, sin, e, inside, n, E)
    _turn(k + (t * k_row + h * k_head)[:, None], k_out + to, cos, sin, e, inside, n, E)


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.apply_rotary` of q and k `[T, H, head_dim]` by cosines and sines `[T, n]`, into new tensors."""
    T, H, E = q.shape
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    q_out, k_out = q.new_empty(T, H, E), k.new_empty(T, H, E)
    if T:
        _rotate[(triton.cdiv(T * H, ROWS),)](
            q, k, q_out, k_out, *q.stride()[:2], *k.stride()[:2], cos.contiguous(), sin.contiguous(), cos.shape[1],
            T, H=H, E=E, EP=triton.next_power_of_2(E), ROWS=ROWS, num_warps=4,
        )  # fmt: skip
    return q_out, k_out
