"""SequenceModel: the three functions that everything else uses a model through."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..kernels.packing import Packing
from .state import State


class SequenceModel(nn.Module, ABC):
    """A causal language model with a state.

    `prefill` then `step` equals `forward` for every split of the tokens. V is the width of the published head, which
    is the vocabulary padded to a multiple; ids from the tokenizer's size on name no token.

    Attributes:
        architecture: the registry's name.
        shortest_split: a model whose first positions see each other (JRT) may be split only from this position on:
            the first `prefill` of a sequence must hold at least so many tokens, or the whole prompt. 0: anywhere.
        positions: most tokens of a sequence, where positions are learned; None: no limit.
        captures: whether a step may be held in a CUDA graph: no part of it runs on the host.
        on_cpu: whether it can be computed there too, which an oracle in float64 needs.
        config: the published configuration, as read.
    """

    architecture: ClassVar[str]
    shortest_split: int = 0
    positions: int | None = None
    captures: bool = True
    on_cpu: bool = True
    config: dict[str, Any]

    @classmethod
    def clean_name(cls, name: str) -> str | None:
        """What this network calls a tensor of the published files; None: it is no weight."""
        return name

    @abstractmethod
    def tie(self) -> None:
        """Make the head and the embedding one parameter, where the configuration ties them."""

    @property
    @abstractmethod
    def embedding(self) -> nn.Embedding: ...

    @abstractmethod
    def extend(
        self, tokens: Tensor, packing: Packing, state: State | None, pads: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read a packed batch `[T]`, from `state` (left as it is) where given.

        Returns the normalised hidden vector of every token `[T, D]`, which `logits` turns into scores (scoring needs
        them at many places but rarely at all, and a vocabulary of 50,000 is wider than D), and the new state.
        `pads` `[T]` bool marks tokens of JRT's left-pad mode; other models refuse it.
        """

    @abstractmethod
    def advance(self, tokens: Tensor, state: State, rows: Tensor | None = None) -> Tensor:
        """Read one token a sequence `[B]`, updating `state` in place; returns hidden vectors `[B, D]`.

        Nothing in it waits for the device, so that a CUDA graph can hold it. `state` must have room (`reserve`).

        Args:
            rows: `[B]` int64, the row of `state` that each sequence has, none twice; None: all rows in order.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """`[..., D] -> [..., V]`."""

    def forward(self, tokens: Tensor, pads: Tensor | None = None) -> Tensor:
        """Scores of the next token at every position: `[B, L] -> [B, L, V]`."""
        batch, length = tokens.shape
        packing = Packing([length] * batch, tokens.device)
        hidden, _ = self.extend(tokens.reshape(-1), packing, None, None if pads is None else pads.reshape(-1))
        return self.logits(hidden).reshape(batch, length, -1)

    @torch.no_grad()
    def prefill(
        self,
        tokens: Tensor,
        lengths: Sequence[int] | Tensor,
        state: State | None = None,
        *,
        pads: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Read prompts of different lengths, laid end to end without padding.

        Args:
            tokens: `[sum(lengths)]` int64.
            lengths: tokens of each sequence, all >= 1.
            state: what the sequences read before (one row each); not changed.
            pads: `[sum(lengths)]` bool, JRT's left-pad mode only (models/jrt.py).

        Returns:
            The scores after the last token of each sequence `[B, V]`, and the state.

        Raises:
            ValueError: lengths that don't fit `tokens` or `state`, or an empty sequence.
        """
        sizes = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
        if tokens.dim() != 1 or sum(sizes) != tokens.shape[0]:
            raise ValueError(f"tokens must be [sum(lengths)] = [{sum(sizes)}], got {list(tokens.shape)}")
        if not sizes or min(sizes) < 1:
            raise ValueError(f"every length must be >= 1 (the scores after no token are undefined), got {sizes}")
        if state is not None and len(state) != len(sizes):
            raise ValueError(f"the state holds {len(state)} sequences, lengths names {len(sizes)}")
        packing = Packing(sizes, tokens.device)
        hidden, state = self.extend(tokens, packing, state, pads)
        return self.logits(packing.last(hidden)), state

    @torch.no_grad()
    def step(self, tokens: Tensor, state: State) -> Tensor:
        """Read one token a sequence: `[B] -> [B, V]`; `state` is updated in place."""
        if tokens.shape != (len(state),):
            raise ValueError(f"tokens must be [{len(state)}], one a sequence of the state, got {list(tokens.shape)}")
        if state.grows:
            state.reserve(int(state.position.max()) + 1 if len(state) else 0)
        return self.logits(self.advance(tokens, state))

    @property
    def n_parameters(self) -> int:
        """Parameters, a tied matrix counted once."""
        return sum(p.numel() for p in self.parameters())

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @property
    def arithmetic(self) -> torch.dtype:
        """The coarsest dtype that it rounds to: its weights', unless a library's kernels round to a coarser one."""
        return self.dtype
