"""The pre-norm residual decoder that most architectures share; they differ in their mixers.

    r <- r + h;  h = mixer(norm1(r));  r <- r + h;  h = mlp(norm2(r));  after the last block r <- r + h
    logits = lm_head(ln_f(r))

Module names are those of the published files, so that a state dict loads and saves as it is.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.gated_activation.dispatch import silu_gate
from ..kernels.linear.dispatch import linear
from ..kernels.packing import Packing
from ..kernels.rms_norm.dispatch import add_rms_norm
from ..kernels.rms_norm.reference import add
from ..kernels.rotary.reference import rotary_angles
from .decoder_config import DecoderConfig
from .sequence_model import SequenceModel
from .state import State

LayerState = dict[str, Tensor]


@dataclass
class Reading:
    """What the mixers of all layers share while one packed batch is read.

    Attributes:
        position: `[B]` tokens read before.
        token_position: `[T]` absolute position of each token.
        packing: the batch's layout.
        pads: `[T]` bool, JRT's left-pad mode.
    """

    position: Tensor
    token_position: Tensor
    packing: Packing
    pads: Tensor | None = None


@dataclass
class Stepping:
    """What the mixers of all layers share while one token a sequence is read.

    Attributes:
        position: `[slots]` tokens read before, of all slots of the state.
        rows: `[B]` the slot of each sequence; None: all of them in order.
    """

    position: Tensor
    rows: Tensor | None = None
    _angles: dict[tuple[int, float, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def token_position(self) -> Tensor:
        """`[B]` position of each sequence's token."""
        return self.position if self.rows is None else self.position[self.rows]

    def angles(self, rotary_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the tokens' positions, computed once for all layers; None where nothing is turned."""
        key = rotary_dim, base, dtype
        if rotary_dim and key not in self._angles:
            self._angles[key] = rotary_angles(self.token_position, rotary_dim, base, dtype)
        return self._angles.get(key)


class Mixer(nn.Module):
    """Mixes along the sequence: the only part of a layer that has a state."""

    @abstractmethod
    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """`[T, D] -> [T, D]` and the new state of the layer."""

    @abstractmethod
    def step(self, x: Tensor, stepping: Stepping, state: LayerState) -> Tensor:
        """`[B, D] -> [B, D]`; the rows of `state` are updated in place."""


class Linear(nn.Linear):
    """nn.Linear whose rounding does not depend on the batch (kernels/linear)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    """The residual add and the norm (kernels/rms_norm): the stream so far and h -> the stream and y."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, stream: Tensor | None, hidden: Tensor, in_float32: bool) -> tuple[Tensor, Tensor]:
        return add_rms_norm(stream, hidden, self.weight, self.eps, in_float32)


class LayerNorm(nn.LayerNorm):
    """`RMSNorm`'s contract around nn.LayerNorm."""

    def forward(  # type: ignore[override]
        self, stream: Tensor | None, hidden: Tensor, in_float32: bool
    ) -> tuple[Tensor, Tensor]:
        stream = add(stream, hidden, in_float32)
        return stream, super().forward(stream.to(self.weight.dtype))


class MLP(nn.Module):
    """fc2(gelu(fc1 x)), GELU by its tanh approximation."""

    def __init__(self, config: DecoderConfig, hidden: int):
        super().__init__()
        self.fc1 = Linear(config.d_model, hidden, bias=config.fc1_bias)
        self.fc2 = Linear(hidden, config.d_model, bias=config.fc2_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class GatedMLP(nn.Module):
    """base: fc2(a * act(b)) with (a, b) the halves of fc1 x; alt: fc2(act(fc1 x) * fc3 x)."""

    def __init__(self, config: DecoderConfig, hidden: int):
        super().__init__()
        self.alt = config.mlp_type == "alt"
        activations: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu": F.gelu, "glu": torch.sigmoid}
        self.activation = activations[config.activation]
        self.fc1 = Linear(config.d_model, hidden if self.alt else 2 * hidden, bias=config.fc1_bias)
        if self.alt:
            self.fc3 = Linear(config.d_model, hidden, bias=config.fc1_bias)
        self.fc2 = Linear(hidden, config.d_model, bias=config.fc2_bias)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = (self.fc3(x), self.fc1(x)) if self.alt else self.fc1(x).chunk(2, dim=-1)
        if self.activation is F.silu:
            return self.fc2(silu_gate(value, gate))
        return self.fc2(value * self.activation(gate))


def make_norm(config: DecoderConfig) -> nn.Module:
    return (RMSNorm if config.rms_norm else LayerNorm)(config.d_model, config.norm_eps)


class Block(nn.Module):
    def __init__(self, config: DecoderConfig, mixer: Mixer, mlp_hidden: int):
        super().__init__()
        self.mixer = mixer
        self.norm1 = make_norm(config)
        self.mlp = (MLP if config.activation == "gelu_tanh" else GatedMLP)(config, mlp_hidden)
        self.norm2 = make_norm(config)


class Embeddings(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab, config.d_model)
        if config.n_positions > 0:
            self.position_embeddings = nn.Embedding(config.n_positions, config.d_model)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.word_embeddings(tokens)
        return x + self.position_embeddings(positions) if hasattr(self, "position_embeddings") else x


class Transformer(nn.Module):
    def __init__(self, config: DecoderConfig, blocks: list[Block]):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(blocks)
        self.ln_f = make_norm(config)


class LayeredModel(SequenceModel):
    """A model whose state is that of its mixers, one after the other; a subclass says what stands between them."""

    @abstractmethod
    def _blocks(self, tokens: Tensor, positions: Tensor, mix: Callable[[int, Mixer, Tensor], Tensor]) -> Tensor:
        """The network around `mix(i, mixer, x)`: tokens and their positions `[T]` -> hidden vectors `[T, D]`."""

    def extend(
        self, tokens: Tensor, packing: Packing, state: State | None, pads: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if pads is not None and self.shortest_split == 0:
            raise ValueError(f"{self.architecture} has no left-pad mode; leave `pads` out")
        position = state.position if state else torch.zeros(packing.batch, dtype=torch.int64, device=tokens.device)
        reading = Reading(position, position[packing.row] + packing.within, packing, pads)
        layers: list[LayerState] = []

        def mix(i: int, mixer: Mixer, x: Tensor) -> Tensor:
            y, layer = mixer.prefill(x, reading, state.layers[i] if state else None)
            layers.append(layer)
            return y

        hidden = self._blocks(tokens, reading.token_position, mix)
        return hidden, State(position + packing.length_tensor, layers)

    def advance(self, tokens: Tensor, state: State, rows: Tensor | None = None) -> Tensor:
        stepping = Stepping(state.position, rows)
        position = stepping.token_position
        hidden = self._blocks(tokens, position, lambda i, mixer, x: mixer.step(x, stepping, state.layers[i]))
        state.count(rows)
        return hidden


class Decoder(LayeredModel):
    """The shared network; a subclass says which mixer a layer has.

    Args:
        config: the published config.json.
        shapes: shapes of the tensors in the checkpoint by name, which overrule what the configuration leaves open
            (MLP width, whether a convolution has a bias); None for a new model.
    """

    stack_name: ClassVar[str] = "transformer"  # what the published files call everything but the head

    def __init__(self, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None):
        super().__init__()
        self.config = dict(config)
        self.settings = self.read_config(config, shapes)
        self.positions = self.settings.n_positions or None
        shapes = shapes or {}
        blocks = []
        for i in range(self.settings.n_layers):
            fc2 = shapes.get(f"{self.stack_name}.layers.{i}.mlp.fc2.weight")
            hidden = fc2[1] if fc2 is not None and len(fc2) == 2 else self.settings.mlp_hidden
            blocks.append(Block(self.settings, self.make_mixer(i, shapes), hidden))
        self.add_module(self.stack_name, Transformer(self.settings, blocks))
        self.lm_head = Linear(self.settings.d_model, self.settings.padded_vocab, bias=False)
        self.tie()

    @classmethod
    def read_config(cls, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None) -> DecoderConfig:
        return DecoderConfig.from_published(config, shapes)

    @classmethod
    def clean_name(cls, name: str) -> str | None:
        """Older releases say `conv1` for `conv`; rotary tables and an unused decay are stored beside the weights."""
        if name.endswith("rotary_emb.inv_freq") or name == "transformer.decay.decay":
            return None
        return name.replace("conv1", "conv")

    @abstractmethod
    def make_mixer(self, layer: int, shapes: Mapping[str, tuple[int, ...]]) -> Mixer: ...

    @property
    def stack(self) -> Transformer:
        return cast(Transformer, self.get_submodule(self.stack_name))

    def tie(self) -> None:
        if self.settings.tied:
            self.lm_head.weight = self.embedding.weight

    @property
    def embedding(self) -> nn.Embedding:
        return self.stack.embeddings.word_embeddings

    def logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)

    def _blocks(self, tokens: Tensor, positions: Tensor, mix: Callable[[int, Mixer, Tensor], Tensor]) -> Tensor:
        """The residual stream around `mix(layer, mixer, x)`."""
        stack = self.stack
        hidden = stack.embeddings(tokens, positions)
        stream: Tensor | None = None
        in_float32 = self.settings.residual_in_fp32
        for i, block in enumerate(stack.layers):
            assert isinstance(block, Block)
            stream, x = block.norm1(stream, hidden, in_float32)
            hidden = mix(i, block.mixer, x)
            stream, x = block.norm2(stream, hidden, in_float32)
            hidden = block.mlp(x)
        _, x = stack.ln_f(stream, hidden, in_float32)
        return x

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Normal weights of `initializer_range`, zero biases, unit norms: for tests and training from scratch."""
        for name, p in self.named_parameters():
            if p.dim() >= 2:
                p.copy_(torch.randn(p.shape, generator=generator) * self.settings.initializer_range)
            elif name.endswith("bias"):
                p.zero_()
            else:
                p.fill_(1.0)
