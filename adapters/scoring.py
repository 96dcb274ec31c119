"""Adding up log-likelihoods while a forest is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .forest import Node, walk

LOGIT_ROWS = 256  # rows of scores, each as wide as the vocabulary, that are held at once, where memory allows


@dataclass(frozen=True)
class Score:
    """One sequence to score: the log-likelihood of `tokens[context:]`, each given all before it.

    Attributes:
        context: tokens that are given, at least one.
        pads: how many of them are pads (JRT's left-pad mode).
    """

    tokens: Sequence[int]
    context: int
    pads: int = 0


class ScoreBoard:
    """Collects what the hidden vectors of each node predict, for every job whose path leads through it.

    Args:
        jobs: what is scored; job i ends where the forest says request i ends.
        logits: hidden vectors `[n, D]` -> scores `[n, V]`.
        vocabulary: ids from here on are never the greedy choice; they do count in the normaliser, as in lm-eval.
        rows: most rows of scores that are held at once.
    """

    def __init__(
        self,
        jobs: Sequence[Score],
        roots: Sequence[Node],
        logits: Callable[[Tensor], Tensor],
        vocabulary: int,
        rows: int = LOGIT_ROWS,
    ):
        self.jobs, self.logits, self.vocabulary, self.rows = jobs, logits, vocabulary, rows
        self.totals = [0.0] * len(jobs)
        self.greedy = [True] * len(jobs)
        # A node may be read twice, when its state could not be kept; it must count once.
        self._open: dict[Node, list[int]] = {}
        self._counted: dict[Node, int] = {}
        for end in walk(roots):
            for job in end.ends:
                node: Node | None = end
                while node is not None and node.start + len(node.tokens) >= jobs[job].context:
                    self._open.setdefault(node, []).append(job)
                    node = node.parent

    def visit(self, node: Node, offset: int, hidden: Tensor) -> None:
        """Count a piece: `hidden` `[n, D]` belongs to the node's tokens from `offset` on."""
        if node not in self._open or offset < self._counted.get(node, 0):
            return
        self._counted[node] = offset + len(hidden)
        first = node.start + offset
        wanted: dict[int, list[int]] = {}  # place in `hidden` -> jobs whose next token it predicts
        for job in self._open[node]:
            last = min(first + len(hidden), len(self.jobs[job].tokens) - 1)
            for position in range(max(first, self.jobs[job].context - 1), last):
                wanted.setdefault(position - first, []).append(job)
        places = sorted(wanted)
        for start in range(0, len(places), self.rows):
            self._count(places[start : start + self.rows], wanted, first, hidden)

    def _count(self, places: list[int], wanted: dict[int, list[int]], first: int, hidden: Tensor) -> None:
        logits, norms, best = row_scores(
            self.logits(hidden[torch.tensor(places, device=hidden.device)]), self.vocabulary
        )
        cells = [
            (row, job, self.jobs[job].tokens[first + place + 1])
            for row, place in enumerate(places)
            for job in wanted[place]
        ]
        rows = torch.tensor([row for row, _, _ in cells], device=hidden.device)
        targets = torch.tensor([token for _, _, token in cells], device=hidden.device)
        values = (logits[rows, targets] - norms[rows]).double().tolist()
        for (row, job, token), value in zip(cells, values, strict=True):
            self.totals[job] += value
            self.greedy[job] &= best[row] == token


def row_scores(logits: Tensor, vocabulary: int) -> tuple[Tensor, Tensor, list[int]]:
    """Of scores `[n, V]`: themselves in float32 or wider, the logarithms of their normalisers `[n]`, the best ids."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits, logits.logsumexp(-1), logits[:, :vocabulary].argmax(-1).tolist()
