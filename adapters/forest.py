"""The forest of shared prefixes: each token that several requests begin with is read once.

A request is a token sequence. Sorted, the sequences lie beside those they share most with, and the longest common
prefix of neighbours gives the branching points of a compressed trie (a radix forest) in one pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

# A branching point saves its tokens once for each child but the first, and costs a step of its own in the schedule.
SMALLEST_SAVING = 16


@dataclass(frozen=True)
class Request:
    """What must be read for one request.

    Attributes:
        tokens: the ids, at least one.
        whole: how many leading tokens must be read in one piece (JRT's encoder; 0 for a causal model). Requests with
            another `whole`, or that part before it, share nothing.
        exact: nothing may be read together with those leading tokens (an encoder that must not see what follows).
        pads: leading tokens that are pads (JRT's left-pad mode).
    """

    tokens: Sequence[int]
    whole: int = 0
    exact: bool = False
    pads: int = 0


@dataclass(eq=False)
class Node:
    """A run of tokens without a branch.

    Attributes:
        tokens: the ids of this run; `start` tokens come before it.
        ends: indices of the requests whose last token is this node's last.
        whole, exact, pads: as in the requests.
    """

    tokens: list[int]
    start: int
    parent: "Node | None"
    whole: int = 0
    exact: bool = False
    pads: int = 0
    children: list["Node"] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def path(self) -> list["Node"]:
        """From the root to this node."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


def build_forest(requests: Sequence[Request], share: bool = True) -> list[Node]:
    """The roots, in sorted order of their sequences; every request ends at one node.

    Args:
        share: False shares nothing, not even between equal requests.
    """
    arrays = [np.asarray(r.tokens, dtype=np.int64) for r in requests]
    # Big-endian bytes compare like the sequences themselves, and much faster than lists.
    keys = [(r.whole, r.exact, r.pads, a.astype(">i8").tobytes()) for r, a in zip(requests, arrays, strict=True)]
    order = sorted(range(len(requests)), key=keys.__getitem__)
    roots: list[Node] = []
    path: list[Node] = []  # from the root to the node where the previous sequence ended
    previous = None
    for i in order:
        request, tokens = requests[i], arrays[i]
        shared = 0
        if share and previous is not None:
            shared = _shared(requests[previous], request, arrays[previous], tokens)
        while path and path[-1].start >= shared:
            path.pop()
        if path and path[-1].start + len(path[-1].tokens) > shared:
            path[-1] = _split(path[-1], shared - path[-1].start)
        # The same sequence again adds nothing; an exact beginning is a node of its own.
        cuts = [shared, request.whole] if request.exact and shared < request.whole < len(tokens) else [shared]
        for start, end in zip(cuts, [*cuts[1:], len(tokens)], strict=True):
            if start < end:
                parent = path[-1] if path else None
                node = Node(tokens[start:end].tolist(), start, parent, request.whole, request.exact, request.pads)
                (parent.children if parent else roots).append(node)
                path.append(node)
        path[-1].ends.append(i)
        previous = i
    return _merge_small(roots)


def _shared(a: Request, b: Request, x: np.ndarray, y: np.ndarray) -> int:
    """Length of the common prefix that two neighbours may share."""
    if (a.whole, a.exact, a.pads) != (b.whole, b.exact, b.pads):
        return 0
    n = min(len(x), len(y))
    differ = np.flatnonzero(x[:n] != y[:n])
    common = int(differ[0]) if len(differ) else n
    return common if common >= a.whole else 0


def _split(node: Node, at: int) -> Node:
    """Cut a node after `at` of its tokens; the upper part takes its place and keeps its identity."""
    lower = replace(node, tokens=node.tokens[at:], start=node.start + at, parent=node)
    for child in lower.children:
        child.parent = lower
    node.tokens, node.children, node.ends = node.tokens[:at], [lower], []
    return node


def walk(roots: Sequence[Node]) -> Iterator[Node]:
    """All nodes, each before its children, in the sorted order of the sequences."""
    stack = list(reversed(roots))
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children))


def _merge_small(roots: list[Node]) -> list[Node]:
    """Undo the branching points that save too little: their tokens are read with each child instead."""
    result: list[Node] = []
    stack = list(reversed(roots))
    while stack:
        node = stack.pop()
        siblings = node.parent.children if node.parent else result
        saving = len(node.tokens) * (len(node.children) - 1)
        if not node.ends and saving < SMALLEST_SAVING and not (node.exact and node.start == 0):
            for child in node.children:
                child.tokens = node.tokens + child.tokens
                child.start, child.parent = node.start, node.parent
            stack.extend(reversed(node.children))
            continue
        siblings.append(node)
        children, node.children = node.children, []
        stack.extend(reversed(children))
    return result


def total_tokens(roots: Sequence[Node]) -> int:
    """Tokens that are read when every shared prefix is read once."""
    return sum(len(node.tokens) for node in walk(roots))
