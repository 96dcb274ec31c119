"""The kinds of cache that other libraries' models keep: how each is taken apart into tensors, and put together again.

A form knows one kind. Its tensors have the sequence as first dimension; those that grow are `cached_* [B, T, ...]`, as
everywhere in `state.py`.
"""

import copy
from typing import Any

from torch import Tensor, nn

from .cache_state import CacheState, Layers
from .errors import ConfigurationError


class CacheForm:
    """One kind of cache.

    Attributes:
        argument: of the network's `forward`, and of what it returns, that holds the cache.
        bounds: as in `CacheState`.
        grows: whether any of its tensors does.
    """

    def __init__(self, argument: str, bounds: list[int | None], grows: bool):
        self.argument, self.bounds, self.grows = argument, bounds, grows

    def begin(self) -> Any:
        """What the network is given before the first token; None: it makes a cache of its own."""
        return None

    def layers(self, cache: Any) -> Layers:
        """Its tensors by layer and name, each with the sequences as first dimension."""
        raise NotImplementedError

    def cache(self, layers: Layers, position: int) -> Any:
        """A cache of these tensors, after `position` tokens; the tensors are its own from then on."""
        raise NotImplementedError

    def after(self, output: Any, given: Any) -> Any:
        """The cache after a call that was given `given`."""
        return getattr(output, self.argument)


# Of transformers.cache_utils, by name: older releases lack some.
LAYERS = {"DynamicLayer", "LinearAttentionLayer", "LinearAttentionAndFullAttentionLayer", "DummyLayer"}
SLIDING = {"DynamicSlidingWindowLayer", "LinearAttentionAndSlidingWindowAttentionLayer"}
STATES = ("conv_states", "recurrent_states")  # of linear attention: a tensor, or several by number


class LayeredForm(CacheForm):
    """Transformers' `DynamicCache`: its layers hold keys and values, states of linear attention, or both."""

    def __init__(self, argument: str, cache: Any):
        from transformers import DynamicCache, cache_utils

        if type(cache) is not DynamicCache:
            raise unknown(type(cache).__name__)
        bounds = []
        for layer in cache.layers:
            kind = type(layer).__name__
            if kind not in LAYERS | SLIDING or type(layer).__module__ != cache_utils.__name__:
                raise unknown(f"{type(cache).__name__} of {kind}")
            bounds.append(layer.sliding_window - 1 if kind in SLIDING else None)
        super().__init__(argument, bounds, any("cached_keys" in _held(layer) for layer in cache.layers))
        self._empty = copy.copy(cache)
        self._empty.layers = [_filled(layer, {}) for layer in cache.layers]

    def layers(self, cache: Any) -> Layers:
        return [_held(layer) for layer in cache.layers]

    def cache(self, layers: Layers, position: int) -> Any:
        cache = copy.copy(self._empty)
        cache.layers = [_filled(layer, held) for layer, held in zip(cache.layers, layers, strict=True)]
        for layer in cache.layers:
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length = position
        return cache


def _held(layer: Any) -> dict[str, Tensor]:
    """The tensors of a layer of Transformers' cache."""
    found = {}
    if isinstance(getattr(layer, "keys", None), Tensor):
        found = {"cached_keys": layer.keys.transpose(1, 2), "cached_values": layer.values.transpose(1, 2)}
    for kind in STATES:
        states = getattr(layer, kind, None)
        numbered = states.items() if isinstance(states, dict) else [(0, states)]
        found |= {f"{kind}.{i}": state for i, state in numbered if state is not None}
    return found


def _filled(empty: Any, held: dict[str, Tensor]) -> Any:
    """A layer like `empty` with these tensors, and no others."""
    layer = copy.copy(empty)
    if hasattr(layer, "keys"):
        names = ("cached_keys", "cached_values")
        layer.keys, layer.values = (held[name].transpose(1, 2) if name in held else None for name in names)
    for kind in STATES:
        states = getattr(layer, kind, None)
        if isinstance(states, dict):
            setattr(layer, kind, {i: held.get(f"{kind}.{i}") for i in states})
        elif hasattr(layer, kind):
            setattr(layer, kind, held.get(f"{kind}.0"))
    return layer


class ListForm(CacheForm):
    """A list of tensors, as RWKV-4's: five of `[B, D, layers]`."""

    def __init__(self, argument: str):
        super().__init__(argument, [None], False)

    def layers(self, cache: Any) -> Layers:
        return [{f"state.{i}": tensor for i, tensor in enumerate(cache)}]

    def cache(self, layers: Layers, position: int) -> Any:
        return list(layers[0].values())


class ModuleForm(LayeredForm):
    """RecurrentGemma: keys and values in a `DynamicCache`, the recurrences' states in attributes of their modules."""

    def __init__(self, argument: str, cache: Any, network: nn.Module):
        super().__init__(argument, cache)
        self.bounds.append(None)
        self._blocks = recurrent_blocks(network)
        self._config = network.config

    def begin(self) -> Any:
        from transformers import DynamicCache

        for block in self._blocks:  # a first token alone would read what the call before left there
            block.conv1d_state = block.rg_lru.recurrent_states = None
        return DynamicCache(config=self._config)

    def after(self, output: Any, given: Any) -> Any:
        return given

    def layers(self, cache: Any) -> Layers:
        states: dict[str, Tensor] = {}
        for i, block in enumerate(self._blocks):
            states |= {f"conv.{i}": block.conv1d_state, f"recurrent.{i}": block.rg_lru.recurrent_states}
        return [*super().layers(cache), states]

    def cache(self, layers: Layers, position: int) -> Any:
        *attention, states = layers
        for i, block in enumerate(self._blocks):
            block.conv1d_state, block.rg_lru.recurrent_states = states[f"conv.{i}"], states[f"recurrent.{i}"]
        return super().cache(attention, position)


class FLAForm(CacheForm):
    """flash-linear-attention's cache: by layer recurrent, convolution and feed-forward states, keys and values."""

    def __init__(self, argument: str, cache: Any):
        self._names: list[dict[str, Any]] = []
        bounds = []
        for layer in cache.layers:
            self._names.append({kind: _shape(held, kind) for kind, held in layer.state.items() if held is not None})
            if len(self._names[-1].get("attn_state", ())) not in (0, 2):
                raise unknown(f"{type(cache).__name__} with {len(layer.state['attn_state'])} attention tensors")
            bounds.append(layer.window_size)
        super().__init__(argument, bounds, any("attn_state" in names for names in self._names))
        self._empty = copy.copy(cache)
        self._empty.layers = [copy.copy(layer) for layer in cache.layers]
        for layer in self._empty.layers:
            layer.state = None

    def layers(self, cache: Any) -> Layers:
        found = []
        for layer, names in zip(cache.layers, self._names, strict=True):
            tensors: dict[str, Tensor] = {}
            for kind, name in names.items():
                held = layer.state[kind]
                tensors |= {name: held} if isinstance(name, str) else dict(zip(name, held, strict=True))
            found.append(tensors)
        return found

    def cache(self, layers: Layers, position: int) -> Any:
        cache = copy.copy(self._empty)
        cache.layers, cache._seen_tokens = [], position
        for empty, names, tensors in zip(self._empty.layers, self._names, layers, strict=True):
            layer = copy.copy(empty)
            layer.state = dict.fromkeys(("recurrent_state", "attn_state", "conv_state", "ffn_state"))
            for kind, name in names.items():
                layer.state[kind] = tensors[name] if isinstance(name, str) else tuple(tensors[n] for n in name)
            layer._seen_tokens = position
            cache.layers.append(layer)
        return cache


class Mamba3Form(FLAForm):
    """Mamba-3's: the last key and value of a prompt come in float32 and bfloat16, and leave in the weights' dtype.

    Its kernel for single steps takes no other (flash-linear-attention 0.6.0 with mamba-ssm 2.3.2).
    """

    def __init__(self, argument: str, cache: Any, network: Any):
        super().__init__(argument, cache)
        if any(len(names.get("recurrent_state", ())) != 4 for names in self._names):
            raise unknown(f"{type(cache).__name__} of other parts than Mamba-3's four")
        self._network = network

    def layers(self, cache: Any) -> Layers:
        found, dtype = super().layers(cache), self._network.get_input_embeddings().weight.dtype
        for tensors in found:
            for name in ("recurrent_state.2", "recurrent_state.3"):  # uncopied, the key would hold those of its chunk
                tensors[name] = tensors[name].to(dtype).contiguous()
        return found


def _shape(held: Any, kind: str) -> str | list[str]:
    """The names of what an entry of FLA's holds: of its one tensor, or of each in a list."""
    if isinstance(held, Tensor):
        return kind
    if isinstance(held, tuple | list) and all(isinstance(part, Tensor) for part in held):
        return ["cached_keys", "cached_values"] if kind == "attn_state" else [f"{kind}.{i}" for i in range(len(held))]
    raise unknown(f"{kind} of {type(held).__name__}")


class HistoryForm(CacheForm):
    """No cache: the tokens themselves, all of which are read again for each new one."""

    def __init__(self) -> None:
        super().__init__("", [None], True)

    def layers(self, cache: Any) -> Layers:
        return [{"cached_inputs": cache}]

    def cache(self, layers: Layers, position: int) -> Any:
        return layers[0]["cached_inputs"]


def recurrent_blocks(network: nn.Module) -> list[Any]:
    """The modules that keep a state in themselves, as RecurrentGemma's do."""
    return [m for m in network.modules() if hasattr(m, "conv1d_state") and hasattr(m, "rg_lru")]


def first_read(network: Any, tokens: Tensor) -> tuple[Any, str, Any]:
    """Read `[B, L]` from nothing: what the network returns, where its cache stands in that, and the cache, if any."""
    given = None
    if recurrent_blocks(network):  # RecurrentGemma returns no cache
        from transformers import DynamicCache

        given = DynamicCache(config=network.config)
    options = {} if given is None else {"past_key_values": given}
    output = network(input_ids=tokens, use_cache=True, return_dict=True, **options)
    for argument in ("past_key_values", "cache_params", "state"):
        if (cache := getattr(output, argument, None)) is not None:
            return output, argument, cache
    return output, "past_key_values", given


def find_form(argument: str, cache: Any, network: Any) -> CacheForm:
    """The form of a cache that `network` has used.

    Raises:
        ConfigurationError: a kind that is not known here.
    """
    if recurrent_blocks(network):
        return ModuleForm(argument, cache, network)
    if isinstance(cache, list | tuple) and cache and all(isinstance(part, Tensor) for part in cache):
        return ListForm(argument)
    if type(cache).__module__.startswith("fla."):
        if not hasattr(cache, "layers") or not all(hasattr(layer, "state") for layer in cache.layers):
            raise unknown(type(cache).__name__)
        if network.config.model_type == "mamba3":
            return Mamba3Form(argument, cache, network)
        return FLAForm(argument, cache)
    return LayeredForm(argument, cache)


def first_state(network: Any, tokens: Tensor) -> CacheState:
    """What the cache of `[B, L]` tokens read from nothing holds, whatever it can do; also of tensors without numbers.

    Raises:
        ConfigurationError: as `find_form`.
    """
    _, argument, cache = first_read(network, tokens)
    form = find_form(argument, cache, network)
    read = tokens.new_full(tokens.shape[:1], tokens.shape[1])
    return CacheState(read, form.layers(cache), form.bounds)


def unknown(kind: str) -> ConfigurationError:
    return ConfigurationError(
        f"the model keeps what it read in a {kind}, a kind of cache that is not known here; cache=false reads the "
        "whole prompt again for each token, which is slow but exact, or evaluate with lm-eval's own --model hf"
    )
