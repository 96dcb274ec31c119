"""Any causal language model of Transformers, or of a library with classes of its form, as a SequenceModel.

The model answers with its own network and its own cache (`causal_network.py`); here stand the head and what the engine
asks for. Where the cache can't do what sharing needs, `limits` says so and `shares` is false.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.packing import Packing
from .abilities import can_be_captured, demand_causal, find_abilities
from .cache_forms import HistoryForm, find_form, first_read
from .cache_state import CacheState
from .causal_network import CausalNetwork
from .errors import ConfigurationError, first_line
from .sequence_model import SequenceModel
from .state import State


class TransformersModel(SequenceModel):
    """
    Args:
        causal: a loaded model with a head, in evaluation mode; its weights are used, not copied.
        cached: False uses no cache: each new token reads all before it again.

    Attributes:
        limits: what its cache can't do, in words.
        shares: whether prompts may share what they begin with.
        captures: whether it was found that a CUDA graph can hold its steps, as those of a state that does not grow.
        ends: ids that its generation settings end an answer with.

    Raises:
        ConfigurationError: no causal network, a kind of cache that is not known, or a head that can't be told from it.
    """

    architecture = "transformers"
    captures = False

    def __init__(self, causal: nn.Module, cached: bool = True):
        super().__init__()
        body: Any = causal
        settings = body.config.get_text_config(decoder=True)
        self.config = settings.to_dict()
        self.positions = _positions(body, settings)
        if self.positions:
            self.config.setdefault("train_length", self.positions)
        setattr(self, "architecture", str(body.config.model_type))  # noqa: B010 - a ClassVar of the other models
        if body.base_model is causal:
            raise ConfigurationError(f"{type(causal).__name__} has no network below a head; evaluate with --model hf")
        embedding = body.get_input_embeddings()
        if not isinstance(embedding, nn.Embedding):
            raise ConfigurationError(f"{type(causal).__name__} has no embedding of tokens; evaluate with --model hf")
        self._embedding = [embedding]  # a part of the network already
        self.network = CausalNetwork(causal, HistoryForm())
        self.on_cpu = not any(type(part).__module__.startswith("fla.") for part in causal.modules())  # its kernels
        output, argument, cache = self._probe()
        self._demand_causal()
        why = "cache=false" if not cached else "it keeps no cache" if cache is None else _unfit(settings)
        if not why:
            self.network.form = find_form(argument, cache, self.network.base)
        self.limits = find_abilities(self.network, embedding.num_embeddings, self.positions)
        if why:
            self.limits.append(f"{why}: for each new token all before it are read again, and prompts share no prefix")
        self.shares = self.network.abilities.splits
        ends = getattr(getattr(body, "generation_config", None), "eos_token_id", None)
        self.ends = frozenset([] if ends is None else ends if isinstance(ends, list) else [ends])
        self._head = [_head(causal, type(output))]
        self._check_head()
        self.captures = can_be_captured(self.network, self.logits, embedding.num_embeddings)

    @torch.no_grad()
    def _probe(self) -> tuple[Any, str, Any]:
        try:
            return first_read(self.network.base, torch.zeros(1, 3, dtype=torch.int64, device=self.device))
        except Exception as error:  # whatever a class raises for a configuration that it accepted
            raise self._unread("three tokens", error) from error

    def _demand_causal(self) -> None:
        try:
            demand_causal(self.network, self.embedding.num_embeddings, self.positions)
        except ConfigurationError:
            raise
        except Exception as error:  # as above, of the kernels for longer prompts
            raise self._unread("a longer prompt", error) from error

    def _unread(self, what: str, error: Exception) -> ConfigurationError:
        return ConfigurationError(
            f"{type(self.network.base).__name__} can't read {what} here ({first_line(error)}); correct config.json, or "
            "try another dtype or version of its library"
        )

    @torch.no_grad()
    def _check_head(self) -> None:
        tokens = torch.arange(5, device=self.device) % self.embedding.num_embeddings
        body: Any = self.network.causal
        want = body(input_ids=tokens[None], use_cache=False).logits[0]
        hidden, _ = self.extend(tokens, Packing([5], self.device), None)
        found = self.logits(hidden) if hidden.shape[1] == self.embedding.embedding_dim else None
        if found is None or not torch.allclose(
            found.double(), want.double(), rtol=1e-2, atol=1e-2 * float(want.abs().max())
        ):
            raise ConfigurationError(
                f"{type(body).__name__}: its scores are not made of its last hidden vectors, as wide as its embedding, "
                "alone; evaluate with --model hf"
            )

    def tie(self) -> None:
        """Done when it was loaded."""

    @property
    def embedding(self) -> nn.Embedding:
        return self._embedding[0]

    @property
    def arithmetic(self) -> torch.dtype:
        return self.network.arithmetic

    def extend(
        self, tokens: Tensor, packing: Packing, state: State | None, pads: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if pads is not None:
            raise ValueError("pads: only JRT has a left-pad mode")
        assert state is None or isinstance(state, CacheState)
        return self.network.prefill(tokens, packing, state)

    def advance(self, tokens: Tensor, state: State, rows: Tensor | None = None) -> Tensor:
        """Where its state grows, it looks at positions on the host, so no CUDA graph can hold it."""
        assert isinstance(state, CacheState)
        return self.network.step(tokens, state, rows)

    def logits(self, hidden: Tensor) -> Tensor:
        head = self._head[0]
        head.told[0].hidden = hidden.reshape(1, -1, hidden.shape[-1])
        try:
            tokens = torch.zeros(1, head.told[0].hidden.shape[1], dtype=torch.int64, device=hidden.device)
            return head(input_ids=tokens, use_cache=False, return_dict=True).logits.reshape(*hidden.shape[:-1], -1)
        finally:
            head.told[0].hidden = None


class _Told(nn.Module):
    """Stands for the network below a head, and returns the hidden vectors it was told."""

    def __init__(self, base: nn.Module, output: type):
        super().__init__()
        self.output, self.stands_for = output, [base]
        self.hidden: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.output(last_hidden_state=self.hidden)

    def __getattr__(self, name: str) -> Any:
        """Some heads look at their network's settings."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["stands_for"][0], name)


def _head(causal: Any, output: type) -> Any:
    """The model's own class, with its head, scales and caps, over hidden vectors that are told to it."""
    told = _Told(causal.base_model, output)
    head = copy.copy(causal)
    head.__dict__["_modules"] = {**causal._modules, causal.base_model_prefix: told}
    head.__dict__["told"] = [told]
    return head


def _unfit(settings: Any) -> str:
    """Why its cache can't do, known beforehand: half precision's rounding may hide it from a trial; empty: it may.

    In classes of Mamba-2's kind, of either library, a prompt keeps to the limits of the time step and a single step
    does not.
    """
    for name in ("time_step_limit", "dt_limit"):
        limit = getattr(settings, name, None)
        if limit is not None and tuple(limit) != (0.0, math.inf):
            return f"{name}={list(limit)} is kept to by prompts, not by single steps"
    return ""


def _positions(causal: Any, settings: Any) -> int | None:
    """Most tokens of a sequence: of learned positions, or before rotary ones change with the length; None: no limit."""
    most = getattr(settings, "max_position_embeddings", None)
    rope: Mapping[str, Any] = getattr(settings, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, Mapping)}
    if "longrope" in kinds:
        return rope.get("original_max_position_embeddings") or settings.original_max_position_embeddings
    if "dynamic" in kinds:
        return most
    tokens = causal.get_input_embeddings()
    tables = [m for m in causal.modules() if isinstance(m, nn.Embedding) and m is not tokens]
    return most if any(most and most <= m.num_embeddings <= most + 2 for m in tables) else None
