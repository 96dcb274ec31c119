"""The forest against brute force."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_evals.adapters import forest
from recall_evals.adapters.forest import Request, build_forest, total_tokens, walk

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=20)


def trie_size(sequences):
    return len({tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)})


def spelled(node):
    return [t for n in node.path() for t in n.tokens]


def check(requests, roots):
    nodes = list(walk(roots))
    assert sorted(i for n in nodes for i in n.ends) == list(range(len(requests)))
    for node in nodes:
        assert node.tokens and node.start == sum(len(n.tokens) for n in node.path()[:-1])
        assert all(child.parent is node for child in node.children)
        for i in node.ends:
            assert spelled(node) == list(requests[i].tokens)
            assert (node.whole, node.exact, node.pads) == (requests[i].whole, requests[i].exact, requests[i].pads)


@settings(max_examples=300, deadline=None)
@given(SEQUENCES)
def test_every_prefix_is_read_once(sequences):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest, "SMALLEST_SAVING", 0)
        requests = [Request(s) for s in sequences]
        roots = build_forest(requests)
        check(requests, roots)
        assert total_tokens(roots) == trie_size(sequences)


@settings(max_examples=300, deadline=None)
@given(SEQUENCES, st.integers(1, 40))
def test_small_savings_are_left_out(sequences, smallest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest, "SMALLEST_SAVING", smallest)
        requests = [Request(s) for s in sequences]
        roots = build_forest(requests)
        check(requests, roots)
        for node in walk(roots):
            assert node.ends or len(node.tokens) * (len(node.children) - 1) >= smallest
        assert trie_size(sequences) <= total_tokens(roots) <= sum(map(len, sequences))


@settings(max_examples=300, deadline=None)
@given(SEQUENCES, st.integers(1, 8), st.data())
def test_what_must_be_read_whole_is_never_cut(sequences, whole, data):
    requests = [
        Request(
            s, min(whole, len(s)), data.draw(st.booleans(), label="exact"), data.draw(st.integers(0, 1), label="pads")
        )
        for s in sequences
    ]
    roots = build_forest(requests, data.draw(st.booleans(), label="share"))
    check(requests, roots)
    for root in roots:
        assert len(root.tokens) == root.whole if root.exact else len(root.tokens) >= root.whole


def test_without_sharing_each_request_stands_alone():
    requests = [Request([1, 2, 3]), Request([1, 2, 3])]
    roots = build_forest(requests, share=False)
    check(requests, roots)
    assert len(roots) == 2 and total_tokens(roots) == 6


def test_a_long_chain_of_prefixes():
    requests = [Request([1] * n) for n in range(3000, 0, -1)]
    roots = build_forest(requests)
    assert total_tokens(roots) == 3000
