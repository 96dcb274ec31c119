"""How much fits into a bound on memory: slots, tokens a prefill, rows of scores; from the model's measured needs."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..kernels.greedy_choice.dispatch import greedy_choice
from ..kernels.packing import Packing
from ..models.sequence_model import SequenceModel
from ..models.state import GROWTH, State
from .engine import group_size, most_states, stepped_states
from .scoring import LOGIT_ROWS, row_scores
from .tensor_memory import peak_bytes

MOST_SLOTS = 64  # for `auto`, where nothing else bounds it: wider steps gain little
PROBE = 64  # tokens and rows of the smallest call that is measured
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Plan:
    """What the engine may do at once.

    Attributes:
        slots: sequences decoded.
        budget: tokens in one packed prefill.
        logit_rows: rows of scores, each as wide as the vocabulary.
    """

    slots: int
    budget: int
    logit_rows: int = LOGIT_ROWS


@dataclass(frozen=True)
class Needs:
    """Bytes that a model needs at its longest context, each form fitted to calls of two or three sizes.

    Attributes:
        state: of one sequence.
        read: `(1, T, B)`: beside the states, a prefill of T tokens in B sequences takes read · (1, T, B).
        whole: tokens that are read in one call, whatever the budget (JRT's encoder).
        hidden: of a token's hidden vector, kept until its scores were looked at.
        scored: `(1, R)`: scores of R hidden vectors, looked at.
        stepped: `(1, B)`: a step of B sequences and the choice of their tokens.
    """

    state: int
    read: tuple[float, float, float]
    whole: int
    hidden: int
    scored: tuple[float, float]
    stepped: tuple[float, float]

    def reading(self, plan: Plan) -> float:
        """The most bytes beside the states while prompts are read and scores looked at."""
        fixed, token, sequence = self.read
        tokens = max(plan.budget, self.whole)
        scoring = self.hidden * tokens + self.scored[0] + self.scored[1] * plan.logit_rows
        return max(fixed + token * tokens + sequence * group_size(plan.slots), scoring)

    def total(self, plan: Plan) -> float:
        """The most bytes of all: live states and what works on them, while reading or in a step."""
        read = most_states(plan.slots) * self.state + self.reading(plan)
        return max(read, stepped_states(plan.slots) * self.state + self.stepped[0] + self.stepped[1] * plan.slots)


def parse_bytes(text: int | str) -> int:
    """`2GB`, `512MiB` or a number of bytes.

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower())
    if not match or match[2] not in UNITS or not (size := int(float(match[1]) * UNITS[match[2]])):
        raise ValueError(f"state_memory={text!r} is no size; write bytes, or a number with KB, MB, GB, KiB, MiB or GiB")
    return size


def sequence_bytes(model: SequenceModel, length: int) -> int:
    """Bytes of one sequence's state after `length` tokens, from states of one and two tokens.

    A state is fixed, or grows by the same amount with every token (and in steps of `GROWTH` while decoding).
    """
    token = torch.zeros(2, dtype=torch.int64, device=model.device)
    one = model.prefill(token[:1], [1])[1].nbytes
    two = model.prefill(token, [2])[1].nbytes
    return one + (two - one) * (-(-length // GROWTH) * GROWTH - 1)


@torch.inference_mode()
def measure(model: SequenceModel, max_length: int) -> Needs:
    """Runs the model on small calls at the end of the longest context, counting the tensors they hold."""
    width = model.embedding.num_embeddings
    n = max(1, min(PROBE, max_length // 4))

    def state_at(sequences: int, position: int) -> State:
        """A state of that many tokens, of which only one was read: its bytes are what matters."""
        tokens = torch.arange(sequences, device=model.device) % width
        state = model.prefill(tokens, [1] * sequences)[1]
        state.reserve(position)
        state.position.fill_(position)
        return state

    def reading(sequences: int, length: int, first: bool) -> float:
        state = None if first else state_at(sequences, max_length - length)
        tokens = torch.arange(sequences * length, device=model.device) % width
        packing = Packing([length] * sequences, model.device)
        after: list[State] = []
        peak = peak_bytes(lambda: after.append(model.extend(tokens, packing, state)[1]), model.device)
        return peak - after[0].nbytes

    def read(first: bool) -> tuple[float, float, float]:
        small, long, wide = reading(1, n, first), reading(1, 2 * n, first), reading(2, n, first)
        token = max(0.0, (long - small) / n)
        sequence = max(0.0, wide - small - token * n)
        fixed = small - token * n - sequence
        if first:  # attention without a flash kernel holds a score for each pair of tokens
            pair = max(0.0, (reading(1, 3 * n, first) - 2 * long + small) / (2 * n * n))
            token += pair * (max_length - 3 * n)
        return fixed, token, sequence

    def line(call: Callable[[int], float]) -> tuple[float, float]:
        small, large = call(n), call(2 * n)
        row = max(0.0, (large - small) / n)
        return small - row * n, row

    def scored(rows: int) -> float:
        hidden = torch.zeros(rows, model.embedding.embedding_dim, dtype=model.dtype, device=model.device)
        return peak_bytes(lambda: row_scores(model.logits(hidden), width), model.device)

    def stepped(rows: int) -> float:
        state = state_at(rows, max_length - 1)
        state.reserve(max_length)
        tokens = torch.arange(rows, device=model.device) % width
        return peak_bytes(lambda: greedy_choice(model.step(tokens, state)[:, :width]), model.device)

    continued, begun = read(False), read(True)
    return Needs(
        state=sequence_bytes(model, max_length),
        read=(max(continued[0], begun[0]), max(continued[1], begun[1]), max(continued[2], begun[2])),
        whole=model.shortest_split,
        hidden=model.embedding.embedding_dim * model.embedding.weight.element_size(),
        scored=line(scored),
        stepped=line(stepped),
    )


def plan_memory(
    model: SequenceModel,
    batch_size: int | str | None,
    max_batch_size: int | None,
    state_memory: int | str | None,
    max_length: int,
    budget: int,
) -> Plan:
    """Slots from `batch_size`, or as many as fit for `auto`; all that the engine holds beside the weights fits
    `state_memory` (or, for `auto` without it, a quarter of the free memory).

    A small memory lowers the tokens of a prefill and the rows of scores until neither takes over a quarter of it.

    Raises:
        ValueError: a batch size that is no number >= 1 or `auto`, or a memory that holds no sequence.
    """
    wanted = str(1 if batch_size is None else batch_size)
    auto = wanted.split(":")[0] == "auto"
    if not auto and not (wanted.isdecimal() and int(wanted) >= 1):
        raise ValueError(f"batch_size={batch_size!r} must be a number >= 1 or auto")
    slots = (max_batch_size or MOST_SLOTS) if auto else int(wanted)
    if state_memory is not None:
        memory = parse_bytes(state_memory)
    elif auto:
        memory = _free_memory(model.device) // 4
    else:
        return Plan(slots, budget)
    needs = measure(model, max_length)
    rows = LOGIT_ROWS
    while rows > 1 and needs.scored[0] + needs.scored[1] * rows > memory / 4:
        rows //= 2
    least = min(budget, max(needs.whole, 16))
    while budget > least and needs.reading(Plan(1, budget, rows)) > memory / 4:
        budget = max(least, budget // 2)
    slots = max(1, min(slots, memory // needs.state))
    while slots > 1 and needs.total(Plan(slots, budget, rows)) > memory:
        slots -= 1
    plan = Plan(slots, budget, rows)
    if (total := needs.total(plan)) > memory:
        raise ValueError(
            f"one sequence at a time needs {total:,.0f} bytes, states of {needs.state:,} (at max_length={max_length}) "
            f"and room to work on them; more than the {memory:,} bytes "
            f"{'of state_memory' if state_memory else 'a quarter of the free memory is'}"
        )
    return plan


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        raise ValueError("this system does not tell its free memory: with batch_size=auto give state_memory") from None
