"""What the checks of Triton forms against their references are given, and how the two are compared."""

import torch
from torch import Tensor

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # ‖got - want‖ / ‖want‖
SLOTS = 3  # more than there are sequences


class Inputs:
    """Random tensors in float64, seeded, and their copies for the form under test."""

    def __init__(self, dtype: torch.dtype, device: str):
        self.generator = torch.Generator().manual_seed(0)
        self.dtype, self.device = dtype, device

    def rand(self, *shape: int, wide: bool = False) -> tuple[Tensor, Tensor]:
        """What the reference gets and what the kernel gets: the same numbers; `wide` in float32 at least."""
        dtype = torch.float32 if wide else self.dtype
        given = torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(dtype)
        return given.double(), given.to(self.device)

    def rows(self, batch: int) -> Tensor:
        return torch.randperm(batch + SLOTS, generator=self.generator)[:batch]


def assert_close(name: str, got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert got.isfinite().all(), name
    error = ((got.double().cpu() - want).norm() / want.norm().clamp(min=1e-30)).item() if want.numel() else 0.0
    assert error <= BOUNDS[dtype], f"{name}: error {error:.1e}"
