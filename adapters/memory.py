"""How many sequences fit: from a batch size, a bound on the memory of states, or both."""

import os
import re

import torch

from ..models.sequence_model import SequenceModel
from ..models.state import GROWTH
from .engine import most_states

MOST_SLOTS = 64  # for `auto`, where nothing else bounds it: wider steps gain little
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


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
    return one + (two - one) * (length + GROWTH - 1)


def fit_slots(
    model: SequenceModel,
    batch_size: int | str | None,
    max_batch_size: int | None,
    state_memory: int | str | None,
    max_length: int,
) -> int:
    """Slots of the engine: `batch_size`, or as many as fit for `auto`; never more than `state_memory` holds.

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
        return slots
    size = sequence_bytes(model, max_length)
    slots = max(1, min(slots, memory // size))
    while slots > 1 and most_states(slots) * size > memory:
        slots -= 1
    if most_states(slots) * size > memory:
        raise ValueError(
            f"one sequence at a time needs {most_states(1)} states of {size:,} bytes (at max_length={max_length}), "
            f"more than the {memory:,} bytes {'of state_memory' if state_memory else 'a quarter of the free memory is'}"
        )
    return slots


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        raise ValueError("this system does not tell its free memory: with batch_size=auto give state_memory") from None
