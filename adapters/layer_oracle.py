"""Every layer of a model against its own equation in float64, on the inputs that it really gets.

A comparison of logits alone would let a small model's amplification of rounding hide a wrong kernel, or blame a right
one. So each layer is given the same input as its copy in float64 on the CPU, where the references run, and its outputs
and states are compared with the copy's.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.packing import Packing
from ..models.sequence_model import SequenceModel


@contextmanager
def layer_oracle(model: SequenceModel) -> Iterator[dict[str, float]]:
    """Within the block, every call of a layer is compared; gives the largest relative difference by layer so far.

    A layer is a mixer (both its `prefill` and its `step`) or a module with parameters of its own outside the mixers:
    embeddings, norms, projections, head. The difference is max|y - y64| / max|y64|, y64 being computed from the same
    inputs by a copy of the layer in float64 on the CPU.
    """
    worst: dict[str, float] = {}

    def compare(name: str, ours: Any, exact: Any) -> None:
        for y, want in zip(_tensors(ours), _tensors(exact), strict=True):
            worst[name] = _larger(worst.get(name, 0.0), relative_difference(y, want))

    def watched(name: str, module: nn.Module, function: str) -> Callable[..., Any]:
        original = getattr(module, function)

        def call(*arguments: Any) -> Any:
            exact_arguments = in_float64(arguments)  # before the call, which updates a state in place
            answer = original(*arguments)
            exact = getattr(_copy(module), function)(*exact_arguments)
            compare(name, (answer, arguments), (exact, exact_arguments))
            return answer

        return call

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: compare(name, output, _copy(module)(*in_float64(inputs)))

    mixers = {n: m for n, m in model.named_modules() if m is not model and hasattr(m, "prefill") and hasattr(m, "step")}
    hooks = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if list(module.parameters(recurse=False)) and not any(name.startswith(f"{mixer}.") for mixer in mixers)
        if name not in mixers
    ]
    for name, mixer in mixers.items():
        for function in ("prefill", "step"):
            setattr(mixer, function, watched(name, mixer, function))
    try:
        yield worst
    finally:
        for handle in hooks:
            handle.remove()
        for mixer in mixers.values():
            del mixer.prefill, mixer.step


def relative_difference(y: Tensor, want: Tensor) -> float:
    """max|y - want| / max|want|; 0 for tensors without elements, NaN where either holds one."""
    if not want.numel():
        return 0.0
    difference = (y.detach().cpu().double() - want.double()).abs().max().item()
    return difference / max(want.abs().max().item(), 1e-30) if difference else 0.0


def in_float64(x: Any) -> Any:
    """The same arguments on the CPU, floating-point ones in float64; containers and packings are rebuilt."""
    if isinstance(x, Tensor):
        # A copy in any case: a step updates its state in place.
        return x.detach().to("cpu", torch.float64 if x.is_floating_point() else x.dtype, copy=True)
    if isinstance(x, Packing):
        return Packing(x.lengths)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return dataclasses.replace(x, **{f.name: in_float64(getattr(x, f.name)) for f in dataclasses.fields(x)})
    if isinstance(x, Mapping):
        return {key: in_float64(value) for key, value in x.items()}
    if isinstance(x, Sequence) and not isinstance(x, str):
        return [in_float64(value) for value in x]
    return x


def _copy(module: nn.Module) -> nn.Module:
    plain = copy.copy(module)  # without the hooks and functions of this comparison, which must not be called again
    plain.__dict__ = {k: v for k, v in module.__dict__.items() if k not in ("prefill", "step")}
    plain._forward_hooks = type(module._forward_hooks)()
    return copy.deepcopy(plain).to("cpu", torch.float64)


def _tensors(x: Any) -> Iterator[Tensor]:
    """The floating-point tensors in an answer, in order."""
    if isinstance(x, Tensor):
        if x.is_floating_point():
            yield x
    elif isinstance(x, Mapping):
        for value in x.values():
            yield from _tensors(value)
    elif isinstance(x, list | tuple):
        for value in x:
            yield from _tensors(value)


def _larger(a: float, b: float) -> float:
    return b if b > a or b != b else a  # NaN stays
