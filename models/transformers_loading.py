"""load_causal_lm: a checkpoint of Transformers or flash-linear-attention as a SequenceModel, or why it can't be one."""

import logging
import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .architectures import FLA, detect_architecture
from .checkpoint import Checkpoint
from .errors import CheckpointError, ConfigurationError, first_line
from .fields import shown
from .hub import fetch_from_hub
from .loading import load_checkpoint
from .sequence_model import SequenceModel

log = logging.getLogger("lm_eval.models.recall_evals")

# Both libraries have classes of these kinds, and `AutoModelForCausalLM` takes those of the one that was imported last.
SHARED = {"bitnet": "BitNetForCausalLM", "mamba": "MambaForCausalLM", "mamba2": "Mamba2ForCausalLM"}


def load_causal_lm(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    cached: bool = True,
) -> SequenceModel:
    """Load any causal language model: one of our own formats, of Transformers or of flash-linear-attention.

    Args:
        trust_remote_code: run Python code that comes with the checkpoint.
        cached: False reads the whole prompt again for each token.

    Raises:
        ConfigurationError: no causal model, one that needs code of its own or a package that isn't there, or a cache
            that is not known.
        CheckpointError: weights that Transformers can't read, or that lack a tensor.
    """
    config = checkpoint.config()
    if not names_transformers_class(config):
        return load_checkpoint(checkpoint, dtype=dtype, device=device)
    from .transformers_model import TransformersModel

    try:
        _demand_causal(config, torch.device(device), trust_remote_code)
        model = TransformersModel(_read(checkpoint, dtype, device, trust_remote_code), cached)
    except ConfigurationError as error:
        raise ConfigurationError(f"{checkpoint.source}: {error}") from None
    for limit in model.limits:
        log.warning("%s (%s): %s", checkpoint.source, model.architecture, limit)
    return model.eval().requires_grad_(False)


def names_transformers_class(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of Transformers' form rather than of a format that we read ourselves."""
    kind = config.get("model_type")
    # Transformers' conversions of Mamba have the published fields too, and its own beside them.
    if isinstance(kind, str) and "hidden_size" in config and isinstance(config.get("architectures"), list):
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        if kind in CONFIG_MAPPING_NAMES:
            return True
    try:
        detect_architecture(config)
    except ConfigurationError:
        return True
    return False


def named_class(config: Mapping[str, Any], device: torch.device | str = "cpu") -> Any:
    """The class of a kind of both libraries, or else the one that `architectures` names.

    Of flash-linear-attention where it is to run in that, else of Transformers.

    Raises:
        ImportError: flash-linear-attention is not installed.
    """
    kind = config["model_type"]
    library = import_module("fla.models" if _runs_in_fla(kind, torch.device(device)) else "transformers")
    return getattr(library, SHARED[kind] if kind in SHARED else config["architectures"][0])


def _runs_in_fla(kind: Any, device: torch.device) -> bool:
    """Whether it is one of its kinds, or Mamba-2 where it finds the Triton kernels of mamba-ssm."""
    if kind == "mamba2" and device.type == "cuda" and find_spec("fla"):
        return bool(import_module("fla.layers.mamba2").is_fast_path_available)
    return kind in FLA


def _demand_causal(config: Mapping[str, Any], device: torch.device, trust_remote_code: bool) -> None:
    """Refuse what no reading of the weights could make an answer of.

    Raises:
        ConfigurationError: says what it is, and the remedy.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ConfigurationError(f"config.json: field 'model_type' must name a kind of model, got {shown(kind)}")
    if config.get("is_encoder_decoder"):
        raise ConfigurationError(
            f"a {kind} model is a sequence-to-sequence model: its prompt goes through an encoder, whose state no token "
            "extends; evaluate it with lm-eval's own --model hf"
        )
    if kind in FLA:
        if find_spec("fla") is None:
            raise ConfigurationError(
                f"{FLA[kind]} needs flash-linear-attention: pip install 'recall-evals[fla]', on a machine with a GPU"
            )
        if device.type != "cuda":
            raise ConfigurationError(
                f"{FLA[kind]} runs in flash-linear-attention's kernels, which need a GPU; here it would run on "
                f"{device.type}: give device=cuda on a machine that has one"
            )
        if kind == "mamba3" and find_spec("mamba_ssm") is None:
            raise ConfigurationError(
                "Mamba-3 runs in kernels of mamba-ssm, which flash-linear-attention does not bring along: pip install "
                "mamba-ssm, and for single steps nvidia-cutlass-dsl and quack-kernels"
            )
        import fla  # noqa: F401 - makes its classes known to Transformers
    elif kind not in CONFIG_MAPPING_NAMES:
        if not config.get("auto_map"):
            raise ConfigurationError(
                f"Transformers {transformers.__version__} knows no model_type {shown(kind)}, and the checkpoint brings "
                "no code; correct it, or pip install -U transformers"
            )
        if not trust_remote_code:
            raise ConfigurationError(
                f"model_type {shown(kind)} needs Python code that comes with the checkpoint, which is not run unless "
                "you ask for it: read it, then give trust_remote_code=true"
            )
    elif kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigurationError(
            f"Transformers has no causal language model of model_type {shown(kind)} (an encoder, or of other data than "
            "text); give one that was trained to predict the next token"
        )


def _read(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device | str, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    config, kind, options = checkpoint.config(), AutoModelForCausalLM, dict[str, Any]()
    if _runs_in_fla(config.get("model_type"), torch.device(device)) and dtype == torch.float32:
        os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")  # its kernels would multiply in TF32, of 10 bits

    # The files were found, and checked, already; code of its own lies beside them only in the repository.
    where = {"pretrained_model_name_or_path": str(checkpoint.config_file.parent)}
    if checkpoint.revision is not None:
        fetch_from_hub(checkpoint.source, "generation_config.json", checkpoint.revision)  # to the same folder
        if trust_remote_code:
            where = {"pretrained_model_name_or_path": checkpoint.source, "revision": checkpoint.revision}
    try:
        # `rescale_prenorm_residual` is for training, but for it Transformers' classes of Mamba (5.17 to 5.23) divide
        # weights that they loaded.
        if config.get("model_type") in SHARED and not (trust_remote_code and config.get("auto_map")):
            kind = named_class(config, device)
            options["config"] = own_settings(kind.config_class, checkpoint.config_file.parent, config)
            options["config"].rescale_prenorm_residual = False
        elif config.get("rescale_prenorm_residual"):
            options["rescale_prenorm_residual"] = False
        model, found = kind.from_pretrained(
            **where, **options, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except ConfigurationError:
        raise
    except Exception as error:  # whatever a class raises for a configuration or a file that it can't read
        raise CheckpointError(f"{checkpoint.source}: Transformers can't load it ({first_line(error)})") from error
    missing = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if missing:
        raise CheckpointError(
            f"{checkpoint.source}: the weights don't fit config.json: missing or of another shape: "
            f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}; take both from the same release"
        )
    return mended(model, dtype).to(device).eval().requires_grad_(False)


def own_settings(kind: Any, folder: Path, config: Mapping[str, Any]) -> Any:
    """The settings, of class `kind`, of a model of both libraries, which name some differently, whichever wrote them.

    Raises:
        ConfigurationError: both names, and they differ; or what flash-linear-attention alone can compute.
    """
    settings, known = kind.from_pretrained(folder), kind()
    for names in (("layer_norm_epsilon", "norm_eps"), ("time_step_limit", "dt_limit")):
        its, foreign = names if hasattr(known, names[0]) else names[::-1]
        if its in config and foreign in config and config[its] != config[foreign]:
            raise ConfigurationError(
                f"config.json: fields {its!r} and {foreign!r} say the same thing; remove the wrong one"
            )
        if foreign in config and hasattr(known, its):
            setattr(settings, its, getattr(settings, foreign))
    usual = {"norm_before_gate": False, "rmsnorm": True, "D_has_hdim": False}
    unusual = [f"{name}={given}" for name, value in usual.items() if (given := config.get(name, value)) != value]
    if unusual and not hasattr(known, "rmsnorm"):
        raise ConfigurationError(
            f"config.json: {', '.join(unusual)}: Transformers' class computes otherwise; pip install "
            "'recall-evals[fla]' mamba-ssm, and run on a GPU (device=cuda)"
        )
    return settings


def mended(model: Any, dtype: torch.dtype) -> Any:
    """The model, without what goes wrong between flash-linear-attention's classes of Mamba and Transformers' loading.

    Their norms are made in float32, and what those give would meet weights of `dtype`; made in that, the sum of layers
    is rounded to it after each, where `residual_in_fp32` asks for float32. Mamba-3's single steps multiply by a buffer
    of ones that no checkpoint holds and loading leaves as memory was.
    """
    for part in model.modules():
        if type(part).__module__.startswith("fla.models.mamba") and hasattr(part, "residual_in_fp32"):
            part.norm.to(dtype)
        if (ones := getattr(part, "_siso_proj", None)) is not None:
            ones.fill_(1.0)
    return model
