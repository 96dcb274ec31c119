"""H3 (arXiv 2212.14052) in its published layout: `backbone.layers.i.{mixer, mlp, norm1, norm2}`, tied head.

    q, k, v = q_proj u, k_proj u, v_proj u;    out = output_linear(q * ssm_diag(ssm_shift(k) * v))

A few layers are attention (`attn_layer_idx`), as in the released hybrids. The state of an H3 layer is the last N - 1
keys and N/2 complex numbers a channel (N = d_state). The release has no config.json, only the arguments of its
command line; those go into one under the names of its constructor, with `model_type` h3.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..kernels.causal_filter import reference as causal_filter
from ..kernels.causal_filter.dispatch import gated_step as filter_step
from ..kernels.diagonal_ssm import reference as diagonal_ssm
from ..kernels.diagonal_ssm.dispatch import gated_step as ssm_step
from .attention import MHA
from .backbone_config import attention_layers, backbone_config
from .decoder import Decoder, LayerState, Linear, Mixer, Reading, Stepping
from .decoder_config import DecoderConfig
from .errors import ConfigurationError
from .fields import get_field, shown
from .wide_parameters import WideParameters

Shapes = Mapping[str, tuple[int, ...]]
Kernel = TypeVar("Kernel", bound=nn.Module)


class ShiftKernel(WideParameters):
    """B `[D, N]` and C `[1, D, N]` of the shift SSM."""

    def __init__(self, width: int, d_state: int):
        super().__init__()
        self.B = nn.Parameter(torch.empty(width, d_state))
        self.C = nn.Parameter(torch.empty(1, width, d_state))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        self.B.zero_()[:, 0] = 1
        self.C.normal_(generator=generator)

    def taps(self, skip: Tensor) -> Tensor:
        """`[D, N]`."""
        return self.kept(lambda: causal_filter.shift_taps(self.B, self.C[0], skip), skip)


class DiagonalKernel(WideParameters):
    """The diagonal SSM: A = -exp(inv_A_real) + i A_imag `[D, N/2]`, B and C as pairs, log dt `[D]`."""

    def __init__(self, width: int, d_state: int):
        super().__init__()
        n = d_state // 2
        self.C = nn.Parameter(torch.empty(1, width, n, 2))
        self.log_dt = nn.Parameter(torch.empty(width))
        self.B = nn.Parameter(torch.empty(width, n, 2))
        self.inv_A_real = nn.Parameter(torch.empty(width, n))
        self.A_imag = nn.Parameter(torch.empty(width, n))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """S4D-Lin: A = -1/2 + i pi n, B = 1, dt from 0.001 to 0.1."""
        self.C.normal_(std=0.5**0.5, generator=generator)
        self.log_dt.uniform_(math.log(0.001), math.log(0.1), generator=generator)
        self.B.copy_(torch.tensor([1.0, 0.0]))
        self.inv_A_real.fill_(math.log(0.5))
        self.A_imag.copy_(math.pi * torch.arange(self.A_imag.shape[1]))

    def discrete(self, skip: Tensor) -> diagonal_ssm.DiagonalSSM:
        def compute() -> diagonal_ssm.DiagonalSSM:
            a = torch.stack([-self.inv_A_real.exp(), self.A_imag], dim=-1)
            return diagonal_ssm.discretize(self.log_dt, a, self.B, self.C[0], skip)

        return self.kept(compute, skip)


class SSMKernel(nn.Module, Generic[Kernel]):
    """Holds a kernel under its published name `kernel`."""

    kernel: Kernel

    def __init__(self, kernel: Kernel):
        super().__init__()
        self.kernel = kernel


class H3(Mixer):
    def __init__(self, width: int, ssm: Mapping[str, Any]):
        super().__init__()
        where = "config.json: ssm_cfg"
        for name, wanted in (("mode", "diag"), ("measure", "diag-lin"), ("disc", "bilinear"), ("real_type", "exp")):
            if (given := get_field(ssm, name, str, wanted, where)) != wanted:
                raise ConfigurationError(f"{where}: {name} {shown(given)} is not supported, only {wanted}")
        if get_field(ssm, "head_dim", int, 1, where) != 1:
            raise ConfigurationError(f"{where}: head_dim {ssm['head_dim']}: only 1, as in the released models")
        d_state = get_field(ssm, "d_state", int, 64, where)
        if d_state % 2:
            raise ConfigurationError(f"{where}: d_state {d_state} must be even: half of it are pairs of numbers")
        self.ssm_k_D = nn.Parameter(torch.empty(width))
        self.D = nn.Parameter(torch.empty(width))
        self.q_proj, self.k_proj, self.v_proj = (Linear(width, width) for _ in range(3))
        self.ssm_k_kernel = SSMKernel(ShiftKernel(width, d_state))
        self.kernel = SSMKernel(DiagonalKernel(width, d_state))
        self.output_linear = Linear(width, width)

    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        keys, h = (state["inputs"], state["ssm"]) if state else (None, None)
        k, keys = causal_filter.prefill(
            self.k_proj(x), self.ssm_k_kernel.kernel.taps(self.ssm_k_D), reading.packing, keys
        )
        ssm = self.kernel.kernel.discrete(self.D)
        y, h = diagonal_ssm.prefill(k * self.v_proj(x), ssm, reading.packing, h)
        return self.output_linear(self.q_proj(x) * y), {"inputs": keys, "ssm": h}

    def step(self, x: Tensor, stepping: Stepping, state: LayerState) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        taps, ssm = self.ssm_k_kernel.kernel.taps(self.ssm_k_D), self.kernel.kernel.discrete(self.D)
        u = filter_step(k, taps, v, state["inputs"], stepping.rows)
        return self.output_linear(ssm_step(u, ssm, q, state["ssm"], stepping.rows))


class H3Model(Decoder):
    """H3 layers and, at `attn_layer_idx`, attention."""

    architecture = "h3"
    stack_name = "backbone"

    @classmethod
    def read_config(cls, config: Mapping[str, Any], shapes: Shapes | None) -> DecoderConfig:
        return backbone_config(config, shapes)

    @classmethod
    def clean_name(cls, name: str) -> str | None:
        """Older releases had other names for the stack, its embedding and its last norm."""
        name = re.sub(r"^s4seq\.encoder\.", "backbone.", name)
        name = re.sub(r"^embedding\.", "backbone.embeddings.word_embeddings.", name)
        name = re.sub(r"^backbone\.norm\.", "backbone.ln_f.", name)
        return None if name.endswith("rotary_emb.inv_freq") else name

    def make_mixer(self, layer: int, shapes: Shapes) -> Mixer:
        if layer in attention_layers(self.config, self.settings.n_layers):
            return MHA(self.settings, layer)
        return H3(self.settings.d_model, get_field(self.config, "ssm_cfg", dict, {}))
