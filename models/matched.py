"""Configurations of equal size, one an architecture: `models/configs/`, of 360 million and 1.3 billion parameters.

Those of attention, BASED and Mamba are the released ones, JRT's are BASED's with an encoder of 1,024 positions and a
layer less. H3's are its paper's (355M and 1.3B, two attention layers), Hyena's the paper's depth and widths (355M; 1.3B
likewise, twice as wide), RWKV-5's the released widths and as many layers as give the size with GPT-2's vocabulary.

Those of Transformers and flash-linear-attention are in the form their classes read, with that vocabulary and one matrix
for embedding and head: the widths and heads of the papers or released models (GLA's of arXiv 2312.06635, Gated
DeltaNet's of 2412.06464, Mamba-2's of 2405.21060 and so on), and as many layers, or as wide MLPs, as give the size. The
hybrids (Bamba, Jamba, LFM2, Qwen3-Next, RecurrentGemma, Zamba2) have attention in every so many layers as theirs do,
and no experts. `rwkv4` is Transformers' `rwkv`.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "configs"
SIZES = ("360m", "1b")


def matched_names() -> list[str]:
    """`attention-360m`, `attention-1b`, ...: an architecture's name and a size."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def matched_config(name: str) -> dict[str, Any]:
    """The configuration of that name, as a config.json has it.

    Raises:
        ValueError: there is none of this name; lists those that there are.
    """
    if name not in matched_names():
        raise ValueError(f"no configuration {name!r}; there are {', '.join(matched_names())}")
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
