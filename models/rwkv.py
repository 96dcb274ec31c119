"""RWKV-5 (Eagle, arXiv 2404.05892) in the layout of `RWKV/rwkv-5-world-*`: `rwkv.blocks.i.{ln1, attention, ...}`.

    x = pre_ln(embedding);  in each block x <- x + attention(ln1(x)), x <- x + feed_forward(ln2(x));  head(ln_out(x))
    mix_c(x_t) = mu_c x_t + (1 - mu_c) x_{t-1}, one mu a channel for each c in r, k, v, g
    attention:    y = wkv5(W_r mix_r(x), W_k mix_k(x), W_v mix_v(x));  W_o(norm(y) silu(W_g mix_g(x)))
    feed_forward: sigmoid(W_r mix_r(x)) W_v relu(W_k mix_k(x))²

`norm` is a LayerNorm over each head of y / head_size_divisor, as RWKV-5 was trained. The halving of the stream every
`rescale_every` layers, by which the original keeps float16 from overflowing, changes nothing else and is not done. The
state of a layer is the last input of attention and of feed_forward, and a matrix a head.

The world tokenizer comes as Python code in those repositories, which is never run: give `tokenizer=` a tokenizer.json.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.wkv5 import reference as wkv5
from ..kernels.wkv5.dispatch import gated_step, mix_step, prefill
from .decoder import LayeredModel, LayerState, Linear, Mixer, Reading, Stepping
from .errors import ConfigurationError
from .fields import NUMBER, get_field


class Shifting(Mixer):
    """What both mixers do to a token and the one before it, whose last is a part of their state."""

    def mus(self, *names: str) -> list[Tensor]:
        return [self.get_parameter(f"time_mix_{name}")[0, 0] for name in names]


class Attention(Shifting):
    def __init__(self, width: int, head_size: int, divisor: float):
        super().__init__()
        self.heads, self.head_size, self.divisor = width // head_size, head_size, divisor
        self.time_decay = nn.Parameter(torch.empty(self.heads, head_size))
        self.time_faaaa = nn.Parameter(torch.empty(self.heads, head_size))
        self.time_mix_gate, self.time_mix_key, self.time_mix_value, self.time_mix_receptance = (
            nn.Parameter(torch.empty(1, 1, width)) for _ in range(4)
        )
        self.key, self.value, self.receptance, self.gate, self.output = (
            Linear(width, width, bias=False) for _ in range(5)
        )
        self.ln_x = nn.GroupNorm(self.heads, width)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Decays from almost 1 to exp(-exp(-1)) over a head's channels."""
        for name in ("gate", "key", "value", "receptance"):
            self.get_parameter(f"time_mix_{name}").uniform_(generator=generator)
        self.time_decay.copy_(torch.linspace(-6, -1, self.head_size).expand_as(self.time_decay))
        self.time_faaaa.uniform_(-0.1, 1, generator=generator)

    @property
    def mixes(self) -> list[Tensor]:
        return self.mus("receptance", "key", "value", "gate")

    @property
    def parts(self) -> wkv5.Heads:
        norm = self.ln_x
        return wkv5.Heads(self.time_decay, self.time_faaaa, norm.weight, norm.bias, self.divisor, norm.eps)

    def project(self, mixed: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """r, k and v `[., H, N]` and the gate before its SiLU `[., D]`."""
        r, k, v, g = mixed
        split = (self.heads, self.head_size)
        r, k, v = self.receptance(r), self.key(k), self.value(v)
        return r.unflatten(-1, split), k.unflatten(-1, split), v.unflatten(-1, split), self.gate(g)

    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        last, s = (state["last"], state["wkv"]) if state else (None, None)
        before, last = wkv5.token_shift(x, reading.packing, last)
        r, k, v, gate = self.project(wkv5.mix(x, before, self.mixes))
        y, s = prefill(r, k, v, *self.parts.decays(), reading.packing, s)
        return self.output(wkv5.gated_norm(y, gate, self.parts)), {"last": last, "wkv": s}

    def step(self, x: Tensor, stepping: Stepping, state: LayerState) -> Tensor:
        projected = self.project(mix_step(x, self.mixes, state["last"], stepping.rows))
        return self.output(gated_step(*projected, self.parts, state["wkv"], stepping.rows))


class FeedForward(Shifting):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.time_mix_key, self.time_mix_receptance = (nn.Parameter(torch.empty(1, 1, width)) for _ in range(2))
        self.key = Linear(width, hidden, bias=False)
        self.receptance = Linear(width, width, bias=False)
        self.value = Linear(hidden, width, bias=False)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        self.time_mix_key.uniform_(generator=generator)
        self.time_mix_receptance.uniform_(generator=generator)

    @property
    def mixes(self) -> list[Tensor]:
        return self.mus("key", "receptance")

    def finish(self, mixed: Sequence[Tensor]) -> Tensor:
        k, r = mixed
        return torch.sigmoid(self.receptance(r)) * self.value(F.relu(self.key(k)).square())

    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        before, last = wkv5.token_shift(x, reading.packing, state["last"] if state else None)
        return self.finish(wkv5.mix(x, before, self.mixes)), {"last": last}

    def step(self, x: Tensor, stepping: Stepping, state: LayerState) -> Tensor:
        return self.finish(mix_step(x, self.mixes, state["last"], stepping.rows))


class Block(nn.Module):
    def __init__(self, width: int, eps: float, first: bool, attention: Attention, hidden: int):
        super().__init__()
        self.pre_ln = nn.LayerNorm(width, eps) if first else None
        self.ln1, self.ln2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attention, self.feed_forward = attention, FeedForward(width, hidden)


class Stack(nn.Module):
    def __init__(self, vocab: int, width: int, blocks: list[Block]):
        super().__init__()
        self.embeddings = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(blocks)
        self.ln_out = nn.LayerNorm(width)


class RWKVModel(LayeredModel):
    """RWKV-5.2: the world models.

    Args:
        config: the published config.json (the fields of Rwkv5Config).
        shapes: of the checkpoint's tensors; they overrule the configuration's feed-forward width.

    Raises:
        ConfigurationError: a missing field, one of the wrong type, or widths that don't fit.
    """

    architecture = "rwkv"

    def __init__(self, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None):
        super().__init__()
        self.config = dict(config)
        width, vocab = get_field(config, "hidden_size", int, ...), get_field(config, "vocab_size", int, 65536)
        head_size = get_field(config, "head_size", int, 64)
        if width % head_size or get_field(config, "attention_hidden_size", int, width) != width:
            raise ConfigurationError(
                f"config.json: hidden_size {width} must be a multiple of head_size {head_size} and equal "
                f"attention_hidden_size {config.get('attention_hidden_size')}"
            )
        divisor = get_field(config, "head_size_divisor", NUMBER, 8)
        hidden = get_field(config, "intermediate_size", int, max(32, int(width * 3.5) // 32 * 32))
        key = (shapes or {}).get("rwkv.blocks.0.feed_forward.key.weight")
        hidden = key[0] if key is not None and len(key) == 2 else hidden
        eps = get_field(config, "layer_norm_epsilon", NUMBER, 1e-5)
        n_layers = get_field(config, "num_hidden_layers", int, ...)
        blocks = [Block(width, eps, i == 0, Attention(width, head_size, divisor), hidden) for i in range(n_layers)]
        self.rwkv = Stack(vocab, width, blocks)
        self.lm_head = Linear(width, vocab, bias=False)
        self.tied = get_field(config, "tie_word_embeddings", bool, False)
        self.tie()

    @classmethod
    def clean_name(cls, name: str) -> str | None:
        """The published files call the head `head`."""
        return re.sub(r"^head\.", "lm_head.", name)

    def tie(self) -> None:
        if self.tied:
            self.lm_head.weight = self.embedding.weight

    @property
    def embedding(self) -> nn.Embedding:
        return self.rwkv.embeddings

    def logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)

    def _blocks(self, tokens: Tensor, positions: Tensor, mix: Callable[[int, Mixer, Tensor], Tensor]) -> Tensor:
        x = self.embedding(tokens)
        for i, block in enumerate(self.rwkv.blocks):
            assert isinstance(block, Block)
            x = x if block.pre_ln is None else block.pre_ln(x)
            x = x + mix(2 * i, block.attention, block.ln1(x))
            x = x + mix(2 * i + 1, block.feed_forward, block.ln2(x))
        return self.rwkv.ln_out(x)
