"""Reading a forest into states: packed prefill within a token budget, forks at the branches."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.packing import Packing
from ..models.sequence_model import SequenceModel
from ..models.state import State
from .forest import Node
from .meter import Meter

# A piece that was read: the node, the index in the node of its first token, the hidden vectors of its tokens [n, D].
Visit = Callable[[Node, int, Tensor], None]


class After(NamedTuple):
    """What is known after a node's last token: a row of a state, and the hidden vector `[D]`."""

    state: State
    row: int
    hidden: Tensor


@dataclass
class ForestReader:
    """Holds the state after each node that something below it, or a slot, still needs.

    Attributes:
        budget: most tokens, gaps included, in one call of the model; a longer run is read in pieces.
        visit: called with every piece that is read.
        progress: called with the number of tokens of every call.
    """

    model: SequenceModel
    meter: Meter
    budget: int
    visit: Visit = lambda node, offset, hidden: None
    progress: Callable[[int], object] = lambda n: None
    _after: dict[Node, After] = field(default_factory=dict)

    def read_paths(self, ends: Sequence[Node], later: set[Node]) -> None:
        """Read what is missing of the paths to `ends`, level by level; then only `ends` and `later` are held."""
        levels: list[dict[Node, None]] = []
        for end in ends:
            missing: list[Node] = []
            at: Node | None = end
            while at is not None and at not in self._after:
                missing.append(at)
                at = at.parent
            for depth, node in enumerate(reversed(missing)):
                if depth == len(levels):
                    levels.append({})
                levels[depth][node] = None
        wanted = later | set(ends)
        for depth, level in enumerate(levels):
            self._read(list(level))
            following = levels[depth + 1] if depth + 1 < len(levels) else {}
            self.keep(wanted | {node.parent for node in following if node.parent is not None})
        self.keep(wanted)

    def hidden(self, ends: Sequence[Node]) -> Tensor:
        """Hidden vectors after the last tokens of held nodes `[len(ends), D]`."""
        return torch.stack([self._after[node].hidden for node in ends])

    def fork(self, nodes: Sequence[Node]) -> State:
        """The states after held nodes, copied, a row each; a node may be named again."""
        places = [self._after[node] for node in nodes]
        first = places[0].state
        if all(place.state is first for place in places):
            return self.meter.hold(first.select([place.row for place in places]))
        merged = self.meter.hold(first.select([places[0].row] * len(places)))
        for state in {id(p.state): p.state for p in places}.values():
            rows = [i for i, p in enumerate(places) if p.state is state]
            merged.write(rows, state.select([places[i].row for i in rows]))
        return merged

    def keep(self, wanted: Iterable[Node]) -> None:
        """Forget all other states; a batch of which only some rows are wanted is cut down to them."""
        wanted = set(wanted)
        self._after = {node: after for node, after in self._after.items() if node in wanted}
        by_state: dict[int, list[Node]] = {}
        for node, after in self._after.items():
            by_state.setdefault(id(after.state), []).append(node)
        for nodes in by_state.values():
            state = self._after[nodes[0]].state
            if len(nodes) < len(state):
                smaller = self.meter.hold(state.select([self._after[node].row for node in nodes]))
                for row, node in enumerate(nodes):
                    self._after[node] = After(smaller, row, self._after[node].hidden)

    def _read(self, nodes: Sequence[Node]) -> None:
        """Read nodes whose parents are held, or which are roots, in as few calls as the budget allows."""

        def kind(node: Node) -> tuple[bool, bool]:
            return node.parent is None, node.pads > 0  # with and without a state, with and without pads

        batch: list[Node] = []
        # Equal lengths side by side leave few gaps.
        for node in sorted(nodes, key=lambda n: (kind(n), -len(n.tokens))):
            if batch and (kind(batch[0]) != kind(node) or (len(batch) + 1) * len(batch[0].tokens) > self.budget):
                self._read_batch(batch)
                batch = []
            batch.append(node)
        if batch:
            self._read_batch(batch)

    def _read_batch(self, nodes: list[Node]) -> None:
        state = None if nodes[0].parent is None else self.fork([n.parent for n in nodes if n.parent is not None])
        longest = len(nodes[0].tokens)
        start, end = 0, longest
        if longest > self.budget:  # a batch of one; its first piece must hold what may not be split
            end = min(longest, max(self.budget, nodes[0].whole - nodes[0].start))
        hidden = torch.empty(0)
        offsets: list[int] = []
        while start < longest:
            began = time.perf_counter()
            pieces = [n.tokens[start:end] for n in nodes]
            packing = Packing([len(p) for p in pieces], self.model.device)
            tokens = torch.tensor([t for p in pieces for t in p], dtype=torch.int64, device=self.model.device)
            pads = None
            if nodes[0].pads and nodes[0].start == start == 0:
                flags = [i < n.pads for n, p in zip(nodes, pieces, strict=True) for i in range(len(p))]
                pads = torch.tensor(flags, device=self.model.device)
            hidden, state = self.model.extend(tokens, packing, state, pads)
            self.meter.hold(state)
            offsets = packing.offsets.tolist()
            for row, node in enumerate(nodes):
                self.visit(node, start, hidden[offsets[row] : offsets[row + 1]])
            self.meter.prefill_seconds += time.perf_counter() - began
            self.meter.prompt_tokens_computed += packing.total
            self.progress(packing.total)
            start, end = end, min(longest, end + self.budget)
        assert state is not None
        for row, node in enumerate(nodes):
            self._after[node] = After(state, row, hidden[offsets[row + 1] - 1].clone())
            if node.ends:
                self.meter.measure_state(state, row, node.start + len(node.tokens))
