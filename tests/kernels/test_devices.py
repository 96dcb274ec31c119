"""What falls back from Triton says so, once."""

import logging

import torch

from recall_evals.kernels import devices
from recall_evals.kernels.packing import Packing
from recall_evals.kernels.taylor_linear_attention import dispatch, reference


def test_a_shape_without_a_kernel_is_logged_once_and_read_by_the_reference(monkeypatch, caplog):
    """As where Triton runs: 24 feature dimensions are more than its form over prompts takes."""
    monkeypatch.setattr(devices, "runs_triton", lambda x: True)
    devices._say_once.cache_clear()
    q, k, v = (torch.randn(5, 2, n, generator=torch.Generator().manual_seed(n)) for n in (24, 24, 8))
    arguments = q, k, v, 0.2, Packing([5]), torch.zeros(1, dtype=torch.int64)
    with caplog.at_level(logging.WARNING, "recall_evals"):
        got = [dispatch.prefill(*arguments)[0] for _ in range(2)]
    assert all(torch.equal(y, reference.prefill(*arguments)[0]) for y in got)
    assert [record.message for record in caplog.records] == [
        "no kernel for prompts of Taylor attention, d 24: it runs in PyTorch, which takes longer"
    ]
