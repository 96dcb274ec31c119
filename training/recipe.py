"""The recipe that the small checkpoints share; they differ in their configuration (`configs/`) and in nothing else."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .sequences import Mix

CONFIGS = Path(__file__).parent / "configs"
NAMES = ("attention", "based", "mamba")


@dataclass(frozen=True)
class Recipe:
    """How long, how fast, on what. AdamW with a linear warm-up and a cosine down to `final_rate`.

    Attributes:
        stages: (steps, tokens a sequence) in order. Short sequences first: in them a model with a small state learns
            sooner to look things up. The last ones hold the longest prompt that is evaluated.
        batch_tokens: tokens a step, in all stages; a multiple of every length.
        rate: of learning, at its highest.
        decay: of weights, on matrices alone.
        clip: norm that the gradient is cut to.
        seed: of the weights and of the order of the data.
    """

    stages: tuple[tuple[int, int], ...] = ((10_800, 160), (5_200, 640), (8_000, 2560))
    batch_tokens: int = 20_480
    rate: float = 5e-3
    final_rate: float = 1e-4
    warmup: int = 300
    betas: tuple[float, float] = (0.9, 0.95)
    decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    mix: Mix = field(
        default_factory=lambda: Mix(
            {"fda": 0.30, "pages": 0.15, "books": 0.20, "mini_fda": 0.175, "mini_swde": 0.175}, plain=0.1, most_lines=6
        )
    )

    def __post_init__(self) -> None:
        if bad := [length for _, length in self.stages if self.batch_tokens % length]:
            raise ValueError(f"batch_tokens {self.batch_tokens} is no multiple of the sequence length {bad[0]}")

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return sum(steps for steps, _ in self.stages)

    @property
    def length(self) -> int:
        """Tokens of the longest sequences."""
        return max(length for _, length in self.stages)

    @property
    def tokens(self) -> int:
        """Predicted in the whole training."""
        return self.steps * self.batch_tokens

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ... steps - 1."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final_rate + (self.rate - self.final_rate) * (1 + math.cos(math.pi * done)) / 2

    def as_json(self) -> str:
        """One line; two recipes are the same if these are."""
        return json.dumps(asdict(self), sort_keys=True)


def published_config(name: str) -> dict[str, Any]:
    """The config.json of a small checkpoint, in the published format.

    Raises:
        ValueError: a name without a configuration here.
    """
    file = CONFIGS / f"{name}.json"
    if name not in NAMES:
        raise ValueError(f"{name!r} is none of the small models; choose {', '.join(NAMES)}")
    return json.loads(file.read_text(encoding="utf-8"))
