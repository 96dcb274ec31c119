"""What a network and its cache can do, found out by doing it on a few random tokens when the model is loaded."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.packing import Packing
from .cache_forms import FLAForm, HistoryForm
from .causal_network import Abilities, CausalNetwork
from .errors import ConfigurationError, first_line

log = logging.getLogger("lm_eval.models.recall_evals")

HEAD, STEPS, TAIL = 70, 6, 66  # tokens: kernels in chunks of 64 are seen to begin, and to go on, with more than one
# Largest difference between two exact ways, in parts of the largest hidden value.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.03}
TOLERANCE_TF32 = 1e-2  # products of float32 on a GPU
LARGEST_BOUND = 0.3  # what is wrong differs by more: a state that was not gone on from, by 0.4 to 0.8


@torch.no_grad()
def demand_causal(network: CausalNetwork, vocabulary: int, positions: int | None) -> None:
    """Two sequences that differ in their last tokens alone must agree before them.

    They are equally long, so that the same kernels read both, and round alike but where tokens are sorted by experts:
    what a deep network makes of rounding in half precision is large.

    Raises:
        ConfigurationError: hidden vectors of tokens depend on later ones, or are no numbers.
    """
    ids, head = _tokens(network, vocabulary, positions)
    one, other = (_whole(network, row)[:head] for row in (ids[0], torch.cat([ids[0, :head], ids[1, head:]])))
    if not one.isfinite().all():
        raise ConfigurationError(
            f"its hidden vectors hold NaN or infinity in {one.dtype}; see that its weights are whole, or try float32"
        )
    if _difference(other, one) > _bound(network):
        raise ConfigurationError(
            "its scores of a token depend on the tokens after it, so it is an encoder and no causal language model; "
            "give a model that was trained to predict the next token"
        )


@torch.no_grad()
def find_abilities(network: CausalNetwork, vocabulary: int, positions: int | None) -> list[str]:
    """Set `network.abilities`, and its form to none where even single steps are not exact.

    Returns:
        What its cache can't do, in words.
    """
    limits = []
    ids, head = _tokens(network, vocabulary, positions)
    whole = [_whole(network, row) for row in ids]
    rounding = _rounding(network, ids[0], whole[0])
    bound = max(_bound(network), min(LARGEST_BOUND, 2 * rounding))
    try:
        noise, why = _steps(network, ids[0], whole[0], head), ""
    except Exception as error:  # as in `_tried`; what is missing is worth saying
        noise, why = float("inf"), f" ({first_line(error)})"
    if not noise <= bound:
        network.form = HistoryForm()
        limits.append(f"its cache does not go on as the whole prompt would: for each new token all are read again{why}")
    able = Abilities()
    bound = min(max(bound / 10, 3 * noise, rounding), LARGEST_BOUND) if noise <= bound else bound
    for name, probe in (("batches", _batches), ("splits", _splits), ("mixes", _mixes), ("packs", _packs)):
        network.abilities = replace(able, **{name: True})
        if _tried(partial(probe, network, ids, whole, head)) <= bound:
            able = network.abilities
    network.abilities = able
    if not able.splits and not isinstance(network.form, HistoryForm):
        limits.append("it goes on from a state one token at a time only: prompts share no prefix")
    if not able.batches:
        limits.append("several sequences in a batch are not answered as one: each is read and stepped alone")
    if network.arithmetic != network.embedding.weight.dtype:
        rounded = str(network.arithmetic).removeprefix("torch.")
        limits.append(f"its kernels round to {rounded} whatever its dtype: its answers are no more exact than in that")
    return limits


@torch.no_grad()
def can_be_captured(network: CausalNetwork, logits: Callable[[Tensor], Tensor], vocabulary: int) -> bool:
    """Whether a CUDA graph can hold a step: no part of it waits for the device, and replayed it goes on as it would.

    A network that counts tokens on the host would repeat the position at which it was captured.
    """
    if not (network.steps_on_device and network.embedding.weight.is_cuda):
        return False
    ids, head = _tokens(network, vocabulary, None)

    def replayed() -> float:
        _, state = network.prefill(ids[:, :head].reshape(-1), Packing([head] * 2, ids.device), None)
        held, spent, tokens = state.select([0, 1]), state.select([0, 1]), ids[:, head].clone()
        rows = torch.arange(2, device=ids.device)
        # Kernels are compiled, and tuned, by the steps that are not captured.
        want = [logits(network.step(column, state, rows)) for column in ids[:, head : head + STEPS].T]
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")  # a step that waits is refused before a capture could be spoilt by it
        try:
            logits(network.step(tokens, spent, rows))
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        graph, found = torch.cuda.CUDAGraph(), []
        with torch.cuda.graph(graph):
            scores = logits(network.step(tokens, held, rows))
        for column in ids[:, head : head + STEPS].T:
            tokens.copy_(column)
            graph.replay()
            found.append(scores.clone())
        return _difference(torch.stack(found), torch.stack(want))

    return _tried(replayed) <= _bound(network) / 10


def _tried(probe: Callable[[], float]) -> float:
    try:
        return probe()
    except Exception as error:  # whatever a class raises for what it was not made for
        log.debug("%r", error)
        return float("inf")


def _tokens(network: CausalNetwork, vocabulary: int, positions: int | None) -> tuple[Tensor, int]:
    """Two random sequences, and how many tokens of each are a prompt."""
    head, tail = (HEAD, TAIL) if positions is None or positions >= HEAD + TAIL else (positions // 2, positions // 2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, head + tail), generator=generator)
    return ids.to(network.embedding.weight.device), head


def _bound(network: CausalNetwork) -> float:
    if network.embedding.weight.is_cuda and network.arithmetic == torch.float32:
        return TOLERANCE_TF32
    return TOLERANCE.get(network.arithmetic, 1e-4)


def _whole(network: CausalNetwork, ids: Tensor) -> Tensor:
    """Hidden vectors `[L, D]` of a sequence that is read alone, at once and without a cache."""
    return network.base(input_ids=ids[None], use_cache=False, return_dict=True).last_hidden_state[0]


def _rounding(network: CausalNetwork, ids: Tensor, whole: Tensor) -> float:
    """What the network makes of embedded tokens that are off by one rounding: a deep one may make much of it."""
    epsilon, generator = torch.finfo(network.embedding.weight.dtype).eps, torch.Generator().manual_seed(1)

    def off(module: nn.Module, given: Any, embedded: Tensor) -> Tensor:
        signs = 2 * torch.randint(2, embedded.shape, generator=generator) - 1
        return embedded * (1 + epsilon * signs).to(embedded)

    hook = network.embedding.register_forward_hook(off)
    try:
        return _difference(_whole(network, ids), whole)
    finally:
        hook.remove()


def _difference(hidden: Tensor, want: Tensor) -> float:
    """max|h - want| / max|want|; infinite where it is no number."""
    found = ((hidden.double() - want.double()).abs().max() / want.double().abs().max().clamp(min=1e-30)).item()
    return found if found == found else float("inf")


def _steps(network: CausalNetwork, ids: Tensor, whole: Tensor, head: int) -> float:
    hidden, state = network.prefill(ids[:head], Packing([head], ids.device), None)
    found = [hidden]
    for i in range(head, min(head + STEPS, len(ids))):
        state.reserve(i + 1)
        found.append(network.step(ids[i : i + 1], state, None))
    together = torch.cat(found)
    return _difference(together, whole[: len(together)])


def _batches(network: CausalNetwork, ids: Tensor, whole: list[Tensor], head: int) -> float:
    hidden, state = network.prefill(ids[:, :head].reshape(-1), Packing([head] * 2, ids.device), None)
    state.reserve(head + 1)
    stepped = network.step(ids[:, head], state, None)
    read = _difference(hidden, torch.cat([rows[:head] for rows in whole]))
    return max(read, _difference(stepped, torch.stack([rows[head] for rows in whole])))


def _splits(network: CausalNetwork, ids: Tensor, whole: list[Tensor], head: int) -> float:
    if isinstance(network.form, HistoryForm):
        return float("inf")
    _, state = network.prefill(ids[0, :head], Packing([head], ids.device), None)
    rest = ids[0, head:]
    hidden, _ = network.prefill(rest, Packing([len(rest)], ids.device), state)
    return _difference(hidden, whole[0][head:])


def _mixes(network: CausalNetwork, ids: Tensor, whole: list[Tensor], head: int) -> float:
    if isinstance(network.form, HistoryForm):
        return float("inf")
    lengths = [head, head // 2]
    prompts = torch.cat([row[:n] for row, n in zip(ids, lengths, strict=True)])
    _, state = network.prefill(prompts, Packing(lengths, ids.device), None)
    more, state = network.prefill(
        torch.cat([row[n : n + STEPS] for row, n in zip(ids, lengths, strict=True)]),
        Packing([STEPS] * 2, ids.device),
        state,
    )
    state.reserve(head + STEPS + 1)
    ends = [n + STEPS for n in lengths]
    stepped = network.step(torch.stack([row[n] for row, n in zip(ids, ends, strict=True)]), state, None)
    read = torch.cat([rows[n : n + STEPS] for rows, n in zip(whole, lengths, strict=True)])
    wanted = torch.stack([rows[n] for rows, n in zip(whole, ends, strict=True)])
    return max(_difference(more, read), _difference(stepped, wanted))


def _packs(network: CausalNetwork, ids: Tensor, whole: list[Tensor], head: int) -> float:
    if not isinstance(network.form, FLAForm) or not network.abilities.splits or network.most is not None:
        return float("inf")
    lengths = [head, head // 2]
    rest = [ids.shape[1] - n for n in lengths]
    packed = torch.cat([row[:n] for row, n in zip(ids, lengths, strict=True)])
    hidden, state = network.prefill(packed, Packing(lengths, ids.device), None)
    more, _ = network.prefill(
        torch.cat([row[n:] for row, n in zip(ids, lengths, strict=True)]), Packing(rest, ids.device), state
    )
    read = _difference(hidden, torch.cat([rows[:n] for rows, n in zip(whole, lengths, strict=True)]))
    return max(read, _difference(more, torch.cat([rows[n:] for rows, n in zip(whole, lengths, strict=True)])))
