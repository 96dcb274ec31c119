"""A causal network of another library, read and stepped through its own cache.

Such a network takes batches of equal length, so sequences are put together by it, and no pad token is ever read.
`abilities` says what its cache was found to do exactly (`abilities.py`), and nothing else is asked of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.packing import Packing
from .cache_forms import CacheForm, HistoryForm
from .cache_state import CacheState, Layers, begin_together, join, put, put_rows, take, take_rows

# Of flash-linear-attention, those with a mode that reads any number of tokens as single steps do.
RECURRENT = {"GatedLinearAttention", "MultiScaleRetention", "DeltaNet", "GatedDeltaNet", "RWKV6Attention"}
# By `model_type`: mamba-ssm's kernel for Mamba-3's prompts rounds queries, keys, values, angles and gates to it.
ROUNDS_TO = {"mamba3": torch.bfloat16}


@dataclass(frozen=True)
class Abilities:
    """What gives the hidden vectors of a sequence that is read alone and at once.

    Attributes:
        splits: going on from a state with several tokens at once; False: one at a time.
        batches: several sequences in a call.
        mixes: sequences of different positions in a call, from states; where keys grow, with a mask.
        packs: sequences of different lengths end to end, their borders in `cu_seqlens`.
    """

    splits: bool = False
    batches: bool = False
    mixes: bool = False
    packs: bool = False


class CausalNetwork(nn.Module):
    """
    Args:
        causal: a model of Transformers' form with a head over its `base_model`.
        form: of its cache.

    Attributes:
        most: tokens of a sequence in one call, more being read in several; None: any number.
    """

    def __init__(self, causal: nn.Module, form: CacheForm):
        super().__init__()
        self.causal = causal
        self.form = form
        self.abilities = Abilities()
        self._takes_positions = "position_ids" in signature(self.base.forward).parameters
        self.most: int | None = None
        self._choose_kernels()

    def _apply(self, fn: Any, recurse: bool = True) -> "CausalNetwork":
        super()._apply(fn, recurse)
        self._choose_kernels()
        return self

    def _choose_kernels(self) -> None:
        dtype = self.embedding.weight.dtype
        half = dtype in (torch.bfloat16, torch.float16)
        self.most = None
        for part in self.causal.modules():
            settings: Any = getattr(part, "config", None)
            if dtype == torch.float64 and getattr(settings, "_experts_implementation", None):
                settings._experts_implementation = "eager"  # grouped products of experts know no float64
            kind = type(part)
            if not kind.__module__.startswith("fla.layers."):
                continue
            # Kernels for chunks round otherwise than single steps, which float32 must equal; DeltaNet's refuse it.
            if kind.__name__ in RECURRENT:
                layer: Any = part
                layer.mode = self.base.config.attn_mode if half else "fused_recurrent"
            elif kind.__name__ == "RWKV7Attention" and not half:  # it reads 64 in chunks whatever its mode
                self.most = 63

    @property
    def embedding(self) -> nn.Embedding:
        body: Any = self.causal
        return body.get_input_embeddings()

    @property
    def arithmetic(self) -> torch.dtype:
        """The coarser of the weights' dtype and of what the library's kernels round to whatever that is."""
        dtype = self.embedding.weight.dtype
        return max(dtype, ROUNDS_TO.get(self.base.config.model_type, dtype), key=lambda kind: torch.finfo(kind).eps)

    @property
    def base(self) -> Any:
        """The network below the head."""
        return self.causal.base_model

    def call(
        self, tokens: Tensor, cache: Any, begun: Sequence[int], borders: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read `[B, L]` from a cache of B sequences, or from none.

        Args:
            begun: tokens that each of the B has read.
            borders: `[B + 1]`, of the B sequences that lie end to end in `[1, L]`.

        Returns:
            Hidden vectors `[B, L, D]`, and the cache, which may be the one that was given.
        """
        if isinstance(self.form, HistoryForm):
            whole = tokens if cache is None else torch.cat([cache, tokens], dim=1)
            hidden = self.base(input_ids=whole, use_cache=False, return_dict=True).last_hidden_state
            return hidden[:, -tokens.shape[1] :], whole
        given = self.form.begin() if cache is None else cache
        options: dict[str, Any] = {} if borders is None else {"cu_seqlens": borders}
        positions = torch.tensor(begun, device=tokens.device)[:, None]
        if self._takes_positions:  # some classes count from 0 whatever their cache holds
            options["position_ids"] = torch.arange(tokens.shape[1], device=tokens.device) + positions
        if min(begun) < max(begun) and self.form.grows:
            places = torch.arange(max(begun) + tokens.shape[1], device=tokens.device)
            options["attention_mask"] = (places >= max(begun) - positions).long()
        if given is not None:
            options[self.form.argument] = given
        output = self.base(input_ids=tokens, use_cache=True, return_dict=True, **options)
        return output.last_hidden_state, self.form.after(output, given)

    def prefill(self, tokens: Tensor, packing: Packing, state: CacheState | None) -> tuple[Tensor, CacheState]:
        """Read a packed batch `[T]`, from `state` where given: hidden vectors `[T, D]` and the new state."""
        begun = [0] * packing.batch if state is None else state.position.tolist()
        pieces = tokens.split(packing.lengths)
        hidden: dict[int, Tensor] = {}
        parts: list[Layers] = []
        order: list[int] = []
        for rows in self._groups(packing.lengths, begun, packs=state is None or self.abilities.splits):
            some, before = [pieces[row] for row in rows], [begun[row] for row in rows]
            held = None if state is None else self._taken(state, rows, before)
            if len({len(piece) for piece in some}) > 1:
                lengths = torch.tensor([0, *(len(piece) for piece in some)], device=tokens.device)
                found, cache = self.call(torch.cat(some)[None], held, before, lengths.cumsum(0))
                found_rows = found[0].split([len(piece) for piece in some])
            else:
                found_rows, cache = self._read(torch.stack(some), held, before)
            hidden |= dict(zip(rows, found_rows, strict=True))
            after = [n + len(piece) for n, piece in zip(before, some, strict=True)]
            parts.append(begin_together(self._layers(cache, len(rows)), after, self.form.bounds))
            order += rows
        places = torch.tensor(order, device=tokens.device).argsort()
        layers = join(parts, places)
        read = torch.tensor(
            [n + length for n, length in zip(begun, packing.lengths, strict=True)], device=tokens.device
        )
        return torch.cat([hidden[row] for row in range(packing.batch)]), CacheState(read, layers, self.form.bounds)

    def step(self, tokens: Tensor, state: CacheState, rows: Tensor | None) -> Tensor:
        """Read one token a sequence `[B]`, in the named rows of `state`, which is updated: hidden vectors `[B, D]`."""
        if self.steps_on_device:
            return self._step_on_device(tokens, state, rows)
        places = list(range(len(state))) if rows is None else rows.tolist()
        positions = state.position.tolist()
        begun = [positions[place] for place in places]
        hidden: Tensor | None = None
        # Where nothing was read an idle slot is stepped, of whose scores nobody asks.
        live = [i for i, n in enumerate(begun) if n]
        for group in self._groups([1] * len(live), [begun[i] for i in live], packs=False):
            some = [live[i] for i in group]
            chosen, before = [places[i] for i in some], [begun[i] for i in some]
            found, cache = self.call(tokens[some][:, None], self._taken(state, chosen, before), before)
            index = torch.tensor(chosen, device=tokens.device)
            put(state.layers, index, self._layers(cache, len(some)), before, self.form.bounds)
            hidden = found.new_zeros(len(places), found.shape[-1]) if hidden is None else hidden
            hidden[some] = found[:, 0]
        state.count(rows)
        return self._nothing(len(places)) if hidden is None else hidden

    @property
    def steps_on_device(self) -> bool:
        """Whether a step needs no number of the state on the host: all sequences share a call, whatever they read."""
        return self.abilities.batches and self.abilities.mixes and not self.form.grows

    def _step_on_device(self, tokens: Tensor, state: CacheState, rows: Tensor | None) -> Tensor:
        """`step`, idle slots too. For all rows the network is lent the state's own tensors, for some of them copies."""
        layers = state.layers if rows is None else take_rows(state.layers, rows)
        position = state.position if rows is None else state.position[rows]
        # One that goes by how many tokens its cache says it holds, here always 1, was found not to mix positions.
        options = {self.form.argument: self.form.cache(layers, 1)}
        if self._takes_positions:
            options["position_ids"] = position[:, None]
        output = self.base(input_ids=tokens[:, None], use_cache=True, return_dict=True, **options)
        cache = self.form.after(output, options[self.form.argument])
        put_rows(state.layers, rows, self._layers(cache, len(tokens)))
        state.count(rows)
        return output.last_hidden_state[:, 0]

    def _read(self, tokens: Tensor, cache: Any, begun: Sequence[int]) -> tuple[Tensor, Any]:
        """`call`, in pieces of `most` tokens, and from a cache a token at a time where it can't go on otherwise."""
        size = (self.most or tokens.shape[1]) if cache is None or self.abilities.splits else 1
        if tokens.shape[1] <= size:
            return self.call(tokens, cache, begun)
        found = []
        for i in range(0, tokens.shape[1], size):
            hidden, cache = self.call(tokens[:, i : i + size], cache, [n + i for n in begun])
            found.append(hidden)
        return torch.cat(found, dim=1), cache

    def _layers(self, cache: Any, rows: int) -> Layers:
        """The tensors of a cache of so many sequences.

        Raises:
            ValueError: one holds another number of them, as RWKV-6's does of sequences end to end. An index beyond it
                would be an error only on a CPU: on a GPU, the end of the process.
        """
        layers = self.form.layers(cache)
        if wrong := [name for layer in layers for name, tensor in layer.items() if len(tensor) != rows]:
            raise ValueError(f"the cache of {rows} sequences holds another number of them in {wrong[0]}")
        return layers

    def _taken(self, state: CacheState, rows: Sequence[int], begun: Sequence[int]) -> Any:
        index = torch.tensor(rows, device=state.position.device)
        return self.form.cache(take(state.layers, index, begun, self.form.bounds), max(begun))

    def _groups(self, lengths: Sequence[int], begun: Sequence[int], packs: bool) -> list[list[int]]:
        """The sequences that may share a call."""
        able, groups = self.abilities, dict[object, list[int]]()
        for row, (length, n) in enumerate(zip(lengths, begun, strict=True)):
            kind = (0 if packs and able.packs else length, 0 if able.mixes else n)
            groups.setdefault(kind if able.batches else row, []).append(row)
        return list(groups.values())

    def _nothing(self, rows: int) -> Tensor:
        weight = self.embedding.weight
        return weight.new_zeros(rows, weight.shape[1])
