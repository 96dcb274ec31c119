"""Which tokens associative recall can help with.

A token x_t is a hit when the pair (x_{t-1}, x_t) stood in its window before and is rare in training: then the window
tells it, and the weights don't (Zoology, arXiv 2312.04927; "Just read twice", arXiv 2407.05483, section 5.2).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from ...training.held_out import recall_hits
from .bigrams import Keys, pair_keys


def rare_hits(windows: Keys, vocabulary: int, frequent: Keys) -> NDArray[np.bool_]:
    """`[B, L + 1] -> [B, L]`, of the second token of each window and those after it.

    Args:
        vocabulary: V of the keys a V + b.
        frequent: sorted keys of the pairs that are too common in training to be hits.
    """
    repeated = recall_hits(torch.from_numpy(windows)).numpy()
    if not frequent.size:
        return repeated
    keys = pair_keys(windows, vocabulary)
    place = np.minimum(np.searchsorted(frequent, keys), frequent.size - 1)
    return repeated & (frequent[place] != keys)
