"""`recall-evals bench drift`: how far a Taylor state strays from float64 over thousands of decoding steps."""

from collections.abc import Iterator
from typing import Any

import torch

from ...kernels.taylor_linear_attention.reference import FOLD, TaylorState, n_features, taylor_features

MARKS = (512, 2048, 8192)  # steps after which the errors of the last SPAN outputs are taken
SPAN = 64
FORMS = {
    "fp32 state, one pass": (torch.float32, False),
    "fp32 state, deferred write": (torch.float32, True),
    "bf16 state, one pass": (torch.bfloat16, False),
    "bf16 state, deferred write": (torch.bfloat16, True),
}


@torch.inference_mode()
def rows(batch: int = 8, heads: int = 16, d: int = 16, dv: int = 64, device: str = "cuda") -> Iterator[dict[str, Any]]:
    """‖y - y64‖ / ‖y64‖ for each form of the state, on one stream of random q, k, v that bfloat16 can hold.

    They are given in float32, so that y is not rounded to bfloat16, which would hide all but the worst.
    """
    from ...kernels.taylor_linear_attention.triton_recurrence import recur
    from ...kernels.taylor_linear_attention.triton_step import step

    features, scale = n_features(d), d**-0.5
    states = {
        name: TaylorState(
            torch.zeros(batch, heads, features, dv, dtype=dtype, device=device),
            torch.zeros(batch, heads, features, dtype=torch.float32, device=device),
            torch.zeros(batch, FOLD, heads, d, dtype=torch.bfloat16, device=device),
            torch.zeros(batch, FOLD, heads, dv, dtype=torch.bfloat16, device=device),
        )
        for name, (dtype, _) in FORMS.items()
    }
    s = torch.zeros(batch, heads, features, dv, dtype=torch.float64, device=device)
    z = torch.zeros(batch, heads, features, dtype=torch.float64, device=device)
    draw = torch.Generator(device).manual_seed(0)
    position = torch.zeros(batch, dtype=torch.int64, device=device)
    squares = {name: torch.zeros((), dtype=torch.float64, device=device) for name in (*FORMS, "exact")}
    errors: dict[str, dict[str, float]] = {name: {} for name in FORMS}
    for t in range(1, MARKS[-1] + 1):
        q, k, v = (
            torch.randn(batch, heads, n, device=device, dtype=torch.bfloat16, generator=draw).float()
            for n in (d, d, dv)
        )
        phi_q, phi_k = (taylor_features(x.double(), scale) for x in (q, k))
        s += phi_k[..., None] * v.double()[:, :, None]
        z += phi_k
        exact = (phi_q[:, :, None] @ s)[:, :, 0] / (phi_q * z).sum(-1, keepdim=True)
        squares["exact"] += exact.square().sum()
        for name, state in states.items():
            deferred = FORMS[name][1]
            y = step(q, k, v, scale, position, state) if deferred else recur(q, k, v, scale, state[:2])
            squares[name] += (y.double() - exact).square().sum()
        position += 1
        if t % SPAN == 0:
            if t in MARKS:
                for name in FORMS:
                    errors[name][f"error_at_{t}"] = float((squares[name] / squares["exact"]).sqrt())
            for total in squares.values():
                total.zero_()
    for name, found in errors.items():
        yield {"what": f"Taylor step, {name}", "shape": f"H {heads}, d {d}, dv {dv}", **found}
