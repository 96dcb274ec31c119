"""JRT-RNN (arXiv 2407.05483): BASED whose linear attention reads the prompt's first positions without a mask.

    w_ij = [j <= i] phi(q_i)·phi(k_j) + [j < enc_length] phi(q_i)·phi(k^enc_j),   values v_j and v^enc_j,
    one denominator for both parts

The encoder part of a sequence does not depend on i, so it is nothing but the state that the causal part starts from:
`prefill` from an empty state absorbs the first min(enc_length, L) positions of (k^enc, v^enc) and goes on causally.
Positions below enc_length see each other, so a prompt may be cut only at enc_length or later (`shortest_split`), and
tokens read later never enter the encoder: that is the published model's cached path, and the oracle.

Left-pad mode is how the published scores were made: a prompt shorter than enc_length is filled up on the left with
token 220, and `pads` marks those places. Their keys become zero *before* the feature map, so phi = [1, 0, ...]: a pad
still adds its value to the numerator and 1 to the denominator, and convolutions, windows and positions see it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..kernels.packing import Packing
from ..kernels.taylor_linear_attention import dispatch as taylor_on_device
from ..kernels.taylor_linear_attention import reference as taylor
from .based import BasedModel, LinearAttention, Shapes, SlidingAttention, integer
from .decoder import LayerState, Linear, Mixer, Reading
from .decoder_config import DecoderConfig, mixer_kind
from .errors import ConfigurationError

PAD_TOKEN = 220  # a space in the GPT-2 vocabulary


class PrefixLinearAttention(LinearAttention):
    def __init__(self, config: DecoderConfig, mixer: Mapping[str, Any], enc_length: int):
        super().__init__(config, mixer)
        if self.gamma is not None:
            raise ConfigurationError("config.json: PrefixLinearAttention with a decay is no published model")
        self.enc_length = enc_length
        self.proj_k_enc = Linear(config.d_model, self.heads * self.feature_dim, bias=False)
        self.proj_v_enc = Linear(config.d_model, self.heads * self.head_dim, bias=False)

    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        q, k, v = self.project(x)
        if reading.pads is not None:
            k = k.masked_fill(reading.pads[:, None, None], 0)
        before = taylor.TaylorState(**state) if state else self.encode(x, reading)
        y, after = taylor_on_device.prefill(q, k, v, self.scale, reading.packing, reading.position, before)
        return self.output(x, y), after._asdict()

    def encode(self, x: Tensor, reading: Reading) -> taylor.TaylorState:
        """The state made of the encoder's keys and values over the first enc_length positions of each sequence."""
        first = reading.packing.within < self.enc_length
        k = self.proj_k_enc(x[first]).unflatten(-1, (self.heads, self.feature_dim))
        v = self.proj_v_enc(x[first]).unflatten(-1, (self.heads, self.head_dim))
        if reading.pads is not None:
            k = k.masked_fill(reading.pads[first][:, None, None], 0)
        packing = Packing([min(n, self.enc_length) for n in reading.packing.lengths], x.device)
        return taylor.absorb(k, v, self.scale, packing)


class JRTModel(BasedModel):
    """BASED with `PrefixLinearAttention` in place of `LinearAttention`."""

    architecture = "jrt"

    def __init__(self, config: Mapping[str, Any], shapes: Shapes | None = None):
        super().__init__(config, shapes)
        mixers = [block.mixer for block in self.stack.layers]
        lengths = [mixer.enc_length for mixer in mixers if isinstance(mixer, PrefixLinearAttention)]
        if not lengths:
            raise ConfigurationError("config.json: PrefixLinearAttention is named, but no layer is routed to it")
        self.shortest_split = max(lengths)

    def make_mixer(self, layer: int, shapes: Shapes) -> Mixer:
        mixer = self.settings.mixers[layer]
        if mixer is not None and mixer_kind(mixer) == "PrefixLinearAttention":
            if mixer.get("enc_length") is None and self.settings.enc_length is None:
                raise ConfigurationError(f"config.json: layer {layer}: enc_length is missing")
            return PrefixLinearAttention(
                self.settings, mixer, integer(mixer, "enc_length", self.settings.enc_length or 0)
            )
        if mixer is not None and "slid" in mixer_kind(mixer).lower():
            # That code base quietly narrows two layers of full width.
            if mixer.get("window_size") == 4096 and layer in (7, 17):
                mixer = {**mixer, "window_size": 256}
            return SlidingAttention(self.settings, mixer, layer)
        return super().make_mixer(layer, shapes)

    def left_pad(self, prompt: Sequence[int]) -> tuple[list[int], list[bool]]:
        """Fill a prompt up to enc_length as the published evaluation did; returns the tokens and which are pads."""
        missing = max(0, self.shortest_split - len(prompt))
        return [PAD_TOKEN] * missing + list(prompt), [True] * missing + [False] * len(prompt)
