"""The models that are timed: the shapes of the released 1.3 B checkpoints, with random weights."""

import math
from typing import Any

import torch

from ...models.loading import detect_architecture, model_class
from ...models.matched import matched_config
from ...models.sequence_model import SequenceModel
from ...models.transformers_loading import mended, named_class, names_transformers_class
from .peers import MissingPeerError

BASED_1B, MAMBA_1B = matched_config("based-1b"), matched_config("mamba-1b")
# 1.42 B parameters: what the same size is as a Llama-style Transformer.
LLAMA_1B: dict[str, Any] = {
    "vocab_size": 50264,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 5504,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": False,
}


def random_model(config: dict[str, Any], device: str, dtype: torch.dtype = torch.bfloat16) -> SequenceModel:
    """A model of that shape whose weights are noise, laid out on the device.

    Raises:
        MissingPeerError: one of flash-linear-attention's, which is not installed.
    """
    if names_transformers_class(config):
        return _library_model(config, device, dtype)
    with torch.device(device):
        model = model_class(detect_architecture(config))(config)
    model.to(dtype)
    if device == "meta":
        return model
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("A_log"):
                p.copy_(torch.arange(1, p.shape[1] + 1, device=device).log().expand_as(p))
            elif name.endswith("dt_proj.bias"):
                p.fill_(math.log(math.expm1(0.01)))
            elif p.dim() >= 2:
                p.normal_(0, 0.02, generator=generator)
            else:
                p.fill_(0.0 if name.endswith("bias") else 1.0)
        for part in model.modules():  # rates and filters, which noise would blow up
            if part is not model and hasattr(part, "initialize"):
                part.initialize(generator)  # type: ignore[operator]
    return model.eval()


def _library_model(config: dict[str, Any], device: str, dtype: torch.dtype) -> SequenceModel:
    from ...models.transformers_model import TransformersModel

    try:
        kind = named_class(config, device)
    except ImportError as error:
        raise MissingPeerError(f"flash-linear-attention ({error})") from error
    torch.manual_seed(0)
    with torch.device(device):
        network = kind._from_config(kind.config_class(**config), dtype=dtype)
    return TransformersModel(mended(network, dtype).eval().requires_grad_(False)).eval()


def largest_batch(sequence_bytes: int, held: int, step: int = 8) -> int:
    """How many sequences of so many bytes fit beside `held` bytes: a multiple of `step`, with a fifth left over."""
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return max(step, int((0.8 * memory - held) / sequence_bytes) // step * step)


def weight_bytes(model: SequenceModel) -> int:
    """Bytes that a step reads: every parameter once, of an embedding that is not the head only the rows looked up."""
    uses = sum(p is model.embedding.weight for _, p in model.named_parameters(remove_duplicate=False))
    total = sum(p.nbytes for p in model.parameters())
    return total if uses > 1 else total - model.embedding.weight.nbytes
