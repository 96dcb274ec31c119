"""What the arguments mean that lm-eval and its users give a model: device, context, dtype of the state, sampling."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from ..models.errors import ConfigurationError
from ..models.fields import WIDEST, shown
from ..models.sequence_model import SequenceModel
from .decoding import Sampling
from .placement import parse_device

log = logging.getLogger("lm_eval.models.recall_evals")

DEFAULT_LENGTH = 2048  # no published configuration says how many its model may read


def available_device(device: str | None) -> torch.device:
    """The device named; of CUDA, where there is none, the CPU, saying so."""
    # lm-eval passes cuda:0 unless the user names a device, so asking for cuda can't be taken as a demand.
    if (device or "cuda").startswith("cuda") and not torch.cuda.is_available():
        log.info("no CUDA device: running on cpu")
        return torch.device("cpu")
    return parse_device(device or "cuda")


def context_length(asked: int | None, model: SequenceModel, source: str, left_pad: bool) -> int:
    """The tokens asked for; where none are, those that the checkpoint was trained at, or 2048.

    Raises:
        ValueError: fewer than 2, more than the model has learned positions for, or too few for JRT's left-pad mode.
        ConfigurationError: the checkpoint's `train_length` is no such number.
    """
    if asked is not None and asked < 2:
        raise ValueError(f"max_length must be >= 2, got {asked}")
    length = asked or _trained_length(model, source) or DEFAULT_LENGTH
    positions = model.positions or length
    if length > positions:
        raise ValueError(
            f"max_length={length}, but {source} has learned positions for {positions} tokens; "
            f"give max_length={positions}"
        )
    if left_pad and length <= model.shortest_split:
        raise ValueError(f"left_pad=true fills prompts up to {model.shortest_split} tokens: raise max_length")
    return length


def _trained_length(model: SequenceModel, source: str) -> int | None:
    length = model.config.get("train_length")
    if type(length) is not int:
        return None
    if not 2 <= length <= WIDEST:
        raise ConfigurationError(
            f"{source}: config.json: field 'train_length' must be from 2 to {WIDEST:,}, got {shown(length)}; correct "
            "it or give max_length"
        )
    return length


def parse_state_dtype(name: str | None, model: SequenceModel) -> torch.dtype | None:
    """Of the sums that linear attention keeps; None: float32 or better.

    Raises:
        ValueError: another dtype than float32 and bfloat16, or a model without such sums.
    """
    if name in (None, "float32"):
        return None
    if name != "bfloat16":
        raise ValueError(f"state_dtype={name!r} is unknown; choose float32 or bfloat16")
    token = torch.zeros(1, dtype=torch.int64, device=model.device)
    if not model.prefill(token, [1])[1].accumulates:
        raise ValueError(f"state_dtype={name}: a {model.architecture} model has no linear attention")
    return torch.bfloat16


def sampling(kwargs: Mapping[str, Any]) -> Sampling:
    """How lm-eval's generation arguments choose the next token; greedily unless `do_sample` is given."""
    if not kwargs.get("do_sample"):
        return Sampling()
    temperature = kwargs.get("temperature")
    return Sampling(
        1.0 if temperature is None else float(temperature),
        int(kwargs.get("top_k") or 0),
        min(1.0, float(kwargs.get("top_p") or 1.0)),  # 0, and 1 or more, are off
    )
