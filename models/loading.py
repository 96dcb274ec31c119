"""load_model: any published checkpoint as a SequenceModel. The architecture comes from its configuration alone."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .architectures import detect_architecture, model_class
from .checkpoint import Checkpoint, find_checkpoint
from .decoder import Decoder
from .decoder_config import ROW_NAMES
from .errors import CheckpointError, ConfigurationError
from .fields import shown
from .sequence_model import SequenceModel

# Weights are stored as one of these, and converted to the dtype that was asked for.
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def load_model(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SequenceModel:
    """Load a checkpoint of any architecture in `architectures`, in its published format, or a causal language model of
    Transformers or flash-linear-attention, whose config.json names its class (`architectures`, or `auto_map`).

    Args:
        source: a folder with config.json and weights, a bundled checkpoint's name (`based`, or `bundled:based` where a
            folder `based` is in the way), or a hub id such as `hazyresearch/based-360m`.
        revision: branch, tag, commit or `refs/pr/N` of a hub repository.
        dtype: of the weights and activations; recurrent states accumulate in float32 or better whatever it is.
        device: where it runs.

    Returns:
        The model in evaluation mode, without gradients.

    Raises:
        ConfigurationError: a configuration that can't be built; names the field. Also an encoder, a model with an
            encoder, code that comes with the checkpoint, or a package that isn't there.
        CheckpointError: weights that are absent, unreadable, of a wrong shape, missing or unexpected; lists them. Also
            a file that is not as the folder's SHA256SUMS lists it.
    """
    checkpoint = find_checkpoint(source, revision)
    config = checkpoint.config()
    if isinstance(config.get("architectures"), list) or config.get("auto_map"):
        from .transformers_loading import load_causal_lm  # which imports this module, and what takes seconds

        return load_causal_lm(checkpoint, dtype=dtype, device=device)
    return load_checkpoint(checkpoint, dtype=dtype, device=device)


def load_checkpoint(
    checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> SequenceModel:
    """`load_model` for files that were found already, of an architecture in `architectures`."""
    config = checkpoint.config()
    try:
        network = model_class(detect_architecture(config))
        tensors = clean_names(checkpoint.tensors(), network, checkpoint.source)
        with torch.device("meta"):  # sizes without memory, whatever they are: _check_fit compares them
            model = network(config, {name: tuple(t.shape) for name, t in tensors.items()}).to(dtype)
    except ConfigurationError as error:
        raise ConfigurationError(f"{checkpoint.source}: {error}") from None
    _complete_tied_rows(tensors, model, checkpoint.source)
    _check_fit(tensors, model, checkpoint.source)
    types = {name: t.dtype for name, t in model.state_dict().items()}  # some parameters stay wider than `dtype`
    model.load_state_dict({n: t.to(device=device, dtype=types[n]) for n, t in tensors.items()}, assign=True)
    model.tie()  # assigning gave the head and the embedding a tensor each
    _check_finite(model, checkpoint.source)
    return model.eval().requires_grad_(False)


def clean_names(tensors: Mapping[str, Tensor], network: type[SequenceModel], source: str) -> dict[str, Tensor]:
    """The published spelling of every name, without what is no weight.

    One leading `model.` goes, counters of the training run (`*_metrics.*`) go, the network says what else
    (`clean_name`), and in a decoder norms that stand after their sub-layer (`transformer.ln_0`) are moved to the one
    that follows.

    Raises:
        CheckpointError: two tensors that get the same name.
    """
    names = {}
    for name in tensors:
        clean = re.sub(r"^model\.", "", name)
        if "metrics" not in clean and (published := network.clean_name(clean)) is not None:
            names[name] = published
    if issubclass(network, Decoder) and any(n.startswith(f"{network.stack_name}.ln_0.") for n in names.values()):
        names = _shift_norms(names, network.stack_name)
    cleaned: dict[str, str] = {}
    for name, clean in names.items():
        if (other := cleaned.setdefault(clean, name)) != name:
            raise CheckpointError(f"{source}: {shown(other)} and {shown(name)} are the same weight; keep one of them")
    return {clean: tensors[name] for clean, name in cleaned.items()}


def _shift_norms(names: Mapping[str, str], stack: str) -> dict[str, str]:
    """Post-norm order: ln_0 -> first norm1, norm1 -> norm2 of its layer, norm2 -> norm1 of the next, last -> ln_f."""
    layers = [int(m[1]) for n in names.values() if (m := re.match(rf"{stack}\.layers\.([0-9]{{1,9}})\.", n))]
    n_layers = 1 + max(layers, default=0)

    def shifted(name: str) -> str:
        if match := re.fullmatch(rf"{stack}\.ln_0\.(\w+)", name):
            return f"{stack}.layers.0.norm1.{match[1]}"
        if match := re.fullmatch(rf"{stack}\.layers\.([0-9]{{1,9}})\.norm([12])\.(\w+)", name):
            layer, which, kind = int(match[1]), match[2], match[3]
            if which == "1":
                return f"{stack}.layers.{layer}.norm2.{kind}"
            return f"{stack}.layers.{layer + 1}.norm1.{kind}" if layer + 1 < n_layers else f"{stack}.ln_f.{kind}"
        return name

    return {name: shifted(clean) for name, clean in names.items()}


def _complete_tied_rows(tensors: dict[str, Tensor], model: SequenceModel, source: str) -> None:
    """Where head and embedding are tied, a file may hold either or both; both must be equal."""
    names = [n for n in ROW_NAMES if n in model.state_dict()]
    if len(names) < 2 or model.get_parameter(names[0]) is not model.get_parameter(names[1]):
        return
    present = [tensors[n] for n in names if n in tensors]
    if not present or any(t.dtype not in FLOATS for t in present):  # which _check_fit then says
        return
    if len(present) == 2 and not (present[0].shape == present[1].shape and torch.equal(*present)):
        raise CheckpointError(
            f"{source}: {names[0]} and {names[1]} differ, but the configuration ties them; "
            "set tie_word_embeddings (tie_embeddings for Mamba) to false if that is meant"
        )
    for name in names:
        tensors[name] = present[0]


def _check_fit(tensors: Mapping[str, Tensor], model: SequenceModel, source: str) -> None:
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    problems = [f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in tensors]
    problems += [f"unexpected: {shown(n)} {list(t.shape)}" for n, t in tensors.items() if n not in expected]
    problems += [
        f"wrong shape: {name} is {list(tensors[name].shape)}, the configuration says {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    problems += [
        f"wrong type: {name} is {t.dtype}, not one of {', '.join(map(str, FLOATS))}"
        for name, t in tensors.items()
        if name in expected and t.dtype not in FLOATS
    ]
    if problems:
        shown_first = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise CheckpointError(
            f"{source}: the weights don't fit config.json; take both from the same release:\n  {shown_first}"
        )


def _check_finite(model: SequenceModel, source: str) -> None:
    for name, p in model.named_parameters():
        if p.numel() and not torch.isfinite(torch.stack(p.aminmax())).all():
            raise CheckpointError(
                f"{source}: {name} holds NaN or infinity as {p.dtype}; "
                "download it again, or choose a wider dtype if it was stored in one"
            )
