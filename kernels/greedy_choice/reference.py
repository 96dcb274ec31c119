"""The most likely token, and its lead over the second.

token = min argmax_i x_i,    lead = x_token - max_{i != token} x_i    (infinite where there is no other)
"""

from torch import Tensor


def greedy_choice(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes: scores `[B, V]` -> tokens `[B]` int64 and leads `[B]` float32; of equal scores the first wins."""
    best = scores.argmax(-1)
    top = scores.gather(-1, best[:, None])
    others = scores.scatter(-1, best[:, None], float("-inf"))
    return best, (top[:, 0].float() - others.amax(-1).float())
