"""The peak memory of tensors: from the allocator of a GPU, counted operation by operation on a CPU."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """Within the block: bytes of the storages that operations made and that still live, and the most there were.

    Views count once, with the storage they look at. Scratch space inside one operation is not seen.

    Attributes:
        bytes: alive now; peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._alive: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        inputs = {id(x.untyped_storage()) for x in tree_leaves([args, kwargs]) if isinstance(x, Tensor)}
        answer = func(*args, **(kwargs or {}))
        for x in tree_leaves(answer):
            if isinstance(x, Tensor) and x.device.type != "meta":
                storage = x.untyped_storage()
                if id(storage) not in inputs and id(storage) not in self._alive:
                    self._count(storage)
        return answer

    def _count(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), id(storage)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

        def freed() -> None:
            self.bytes -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.finalize(storage, freed)
        self._alive[key].atexit = False


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes on the device that a call held at once beyond what there was before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with TensorMemory() as memory:
        call()
    return memory.peak
