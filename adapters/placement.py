"""Where a model runs and in which precision, from the names that users give."""

import torch

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}


def parse_dtype(name: str, device: torch.device) -> torch.dtype:
    """`float32`, `bfloat16`, `float16` or `float64`; `auto` is bfloat16 on a CUDA device that has it, else float32.

    Raises:
        ValueError: anything else.
    """
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def parse_device(name: str) -> torch.device:
    """`cpu`, `cuda`, `cuda:1` or another device that this PyTorch can compute on now.

    Raises:
        ValueError: no such device, here or anywhere; says what there is.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # fails where the device is known but absent, or holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = ["cpu", *(f"cuda:{i}" for i in range(cards))]
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={name!r} can't be used ({reason}); here there is {', '.join(here)}") from error
    return device
