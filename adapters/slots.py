"""Sequences being decoded, each in a slot, which is a row of one state: a step at a time, or several on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.devices import runs_triton
from ..kernels.greedy_choice.dispatch import greedy_choice
from ..models.sequence_model import SequenceModel
from ..models.state import State

LOOK_EVERY = 8  # steps between two looks of the host: an answer that ends has half as many steps too many on average


class Slots:
    """Every step is one call of the model, for all slots, and the host sees its scores.

    Args:
        state: one row a slot; whatever is in it.
        vocabulary: ids that may be chosen; the head's rows from there on are padding.

    Attributes:
        most_steps: steps that `greedy` can take at once.
    """

    most_steps = 1

    def __init__(self, model: SequenceModel, state: State, vocabulary: int):
        self.model, self.state, self.vocabulary = model, state, vocabulary

    def __len__(self) -> int:
        return len(self.state)

    def write(self, rows: Sequence[int], state: State) -> None:
        """Give the named slots other sequences."""
        self.state.write(rows, state)

    def scores(self, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Read one token in each named slot; the scores after it `[len(rows), vocabulary]`."""
        self._rest(rows)
        latest = [0] * len(self)
        for row, token in zip(rows, tokens, strict=True):
            latest[row] = token
        given = self.model.step(torch.tensor(latest, dtype=torch.int64, device=self.model.device), self.state)
        return given[list(rows), : self.vocabulary]

    def greedy(
        self, rows: Sequence[int], tokens: Sequence[int], steps: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Read one token in each named slot, then each best next one: `steps` chosen tokens a slot, and their leads."""
        if steps != 1:
            raise ValueError(f"steps must be 1 here, got {steps}")
        best, lead = greedy_choice(self.scores(rows, tokens))
        return best[:, None].tolist(), lead[:, None].tolist()

    def _rest(self, rows: Sequence[int]) -> None:
        """An idle slot may be stepped too, and must not grow what grows with a sequence."""
        named = set(rows)
        self.state.position[[row for row in range(len(self)) if row not in named]] = 0


class DeviceSlots(Slots):
    """The step and its choice stay on the device, as a CUDA graph for each power of two of sequences.

    A graph reads its slots from a tensor, so that sequences come and go without a copy; what fills it up are idle
    slots. The graph of all slots takes them in their order, which spares networks of other libraries two copies of the
    state. The first step of a size runs without a graph, which compiles what it needs.

    Args:
        state: with room for all that will be read (`reserve`), since a graph remembers where its tensors lie.
        captured: False runs the same steps without graphs, on any device.
    """

    most_steps = LOOK_EVERY

    def __init__(self, model: SequenceModel, state: State, vocabulary: int, captured: bool = True):
        super().__init__(model, state, vocabulary)
        device, n = state.position.device, len(state)
        self._rows = torch.arange(n, device=device)  # of the step; its first `size` are read
        self._latest = torch.zeros(n, dtype=torch.int64, device=device)
        self._turn = torch.zeros(1, dtype=torch.int64, device=device)
        # Chosen tokens and their leads, a row a step; both are exact in float64, and the host fetches one tensor.
        self._made = torch.zeros(2, self.most_steps, n, dtype=torch.float64, device=device)
        self._given: tuple[list[int], list[int]] | None = None  # rows and tokens as the device has them
        self._captured = captured
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._scores: dict[int, Tensor] = {}  # by size: after the newest step

    def scores(self, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
        size = self._begin(rows, tokens)
        self._step(size)
        return self._scores[size][list(rows) if size == len(self) else slice(len(rows))]

    def greedy(
        self, rows: Sequence[int], tokens: Sequence[int], steps: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        if not 1 <= steps <= self.most_steps:
            raise ValueError(f"steps must be 1 to {self.most_steps}, got {steps}")
        size = self._begin(rows, tokens)
        for _ in range(steps):
            self._step(size)
        chosen, leads = self._made[:, :steps].cpu()[:, :, list(rows)].transpose(1, 2)
        tokens_made = chosen.long()
        self._given = list(rows), tokens_made[:, -1].tolist()
        return tokens_made.tolist(), leads.tolist()

    def _begin(self, rows: Sequence[int], tokens: Sequence[int]) -> int:
        size = min(len(self), 1 << (len(rows) - 1).bit_length())
        self._turn.zero_()
        if size > len(rows):
            self._rest(rows)
        if self._given != (list(rows), list(tokens)):
            named = set(rows)
            idle = [row for row in range(len(self)) if row not in named][: size - len(rows)]
            given = list(zip([*rows, *idle], [*tokens, *(0 for _ in idle)], strict=True))
            if size == len(self):
                given.sort()
            self._rows[:size], latest = torch.tensor(given, dtype=torch.int64).T.to(self._rows.device)
            self._latest[self._rows[:size]] = latest
        self._given = None
        return size

    def _step(self, size: int) -> None:
        if not self._captured or size not in self._scores:
            self._body(size)
            return
        if size not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            pool = next(iter(self._graphs.values())).pool() if self._graphs else None
            with torch.cuda.graph(graph, pool=pool):
                self._body(size)
            self._graphs[size] = graph
        self._graphs[size].replay()

    def _body(self, size: int) -> None:
        rows = self._rows[:size]
        hidden = self.model.advance(self._latest[rows], self.state, None if size == len(self) else rows)
        self._scores[size] = scores = self.model.logits(hidden)[:, : self.vocabulary]
        best, lead = greedy_choice(scores)
        self._latest[rows] = best
        self._made[:, self._turn.expand(size), rows] = torch.stack([best.double(), lead.double()])
        self._turn += 1


def make_slots(model: SequenceModel, state: State, vocabulary: int, room: int) -> Slots:
    """`DeviceSlots` where steps run in Triton on a CUDA device, with room for `room` tokens a slot; else `Slots`."""
    if model.device.type == "cuda" and model.captures and runs_triton(model.embedding.weight):
        state.reserve(room + LOOK_EVERY)
        return DeviceSlots(model, state, vocabulary)
    return Slots(model, state, vocabulary)
