"""Parameters that half precision would spoil, and what a network computes from them."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..kernels.precision import sums_are_exact

Derived = TypeVar("Derived")


class WideParameters(nn.Module):
    """Parameters that stay in float32 in a half-precision model: rates and phases, which 8 bits would spoil."""

    _kept: tuple[list[Any], Any] | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "WideParameters":
        def wide(x: Tensor) -> Tensor:
            moved = fn(x)
            return x.to(moved.device) if moved.dtype in (torch.bfloat16, torch.float16) else moved

        return super()._apply(wide, recurse)

    def kept(self, compute: Callable[[], Derived], *others: Tensor) -> Derived:
        """`compute()` of these parameters and `others`, not repeated while none of them changes or is trained."""
        tensors = [*self.parameters(), *self.buffers(), *others]
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            return compute()
        key = [(x.data_ptr(), 0 if x.is_inference() else x._version) for x in tensors] + [sums_are_exact()]
        if self._kept is None or self._kept[0] != key:
            self._kept = key, compute()
        return self._kept[1]
