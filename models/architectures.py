"""The registry: which architectures there are, and which of them a configuration describes.

A row is a name and where its class stands, imported when first used, so that one broken architecture never breaks
another. Other packages add rows by the entry-point group `recall_evals.architectures`: the entry's name is the
architecture's and the `model_type` of its configurations, its object a subclass of `SequenceModel`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import ConfigurationError
from .fields import shown
from .sequence_model import SequenceModel

GROUP = "recall_evals.architectures"


@dataclass(frozen=True)
class Architecture:
    """One row.

    Attributes:
        target: module:class in this package, or another's entry point.
        formats: what its checkpoints are, in a few words.
        model_type: which its configurations say; None: they are known by their fields.
        devices: where it runs.
        extra: of this package that it needs, `pip install recall-evals[extra]`.
    """

    target: str | EntryPoint
    formats: str
    model_type: str | None = None
    devices: str = "CPU, GPU"
    extra: str = ""


# `model_type` of flash-linear-attention's classes that Transformers has none of.
FLA = {"gla": "GLA", "retnet": "RetNet", "delta_net": "DeltaNet", "gated_deltanet": "Gated DeltaNet"}
FLA |= {"rwkv6": "RWKV-6", "rwkv7": "RWKV-7", "mamba3": "Mamba-3"}

# The last two have no format of ours: `load_causal_lm` reads them.
OURS = {
    "attention": Architecture("attention:AttentionModel", "hazyresearch/attn-*"),
    "based": Architecture("based:BasedModel", "hazyresearch/based-*"),
    "jrt": Architecture("jrt:JRTModel", "hazyresearch/JRT-*"),
    "mamba": Architecture("mamba:MambaModel", "hazyresearch/mamba-*, state-spaces/mamba-*"),
    "h3": Architecture("h3:H3Model", "H3's model.pt", "h3"),
    "hyena": Architecture("hyena:HyenaModel", "Safari's checkpoints", "hyena"),
    "rwkv": Architecture("rwkv:RWKVModel", "RWKV/rwkv-5-world-*", "rwkv5"),
    "transformers": Architecture(
        "transformers_model:TransformersModel", "--model recall: any causal model of Transformers"
    ),
    "fla": Architecture(
        "transformers_model:TransformersModel", f"--model recall: {', '.join(FLA.values())}", None, "GPU", "fla"
    ),
}


def architectures() -> dict[str, Architecture]:
    """All rows by name: ours, then those of other packages, which can't replace ours."""
    found = dict(OURS)
    for entry in entry_points(group=GROUP):
        package = entry.dist.name if entry.dist else entry.value
        found.setdefault(entry.name, Architecture(entry, f"of {package}", entry.name))
    return found


def model_class(architecture: str) -> type[SequenceModel]:
    """The class behind a name.

    Raises:
        ConfigurationError: another package's that can't be imported, or is no SequenceModel.
    """
    target = architectures()[architecture].target
    if isinstance(target, str):
        module, name = target.split(":")
        return getattr(import_module(f".{module}", __package__), name)
    try:
        loaded = target.load()
    except Exception as error:  # whatever a foreign module raises
        raise ConfigurationError(
            f"architecture {architecture}: {target.value} can't be imported ({error}); repair or remove its package"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, SequenceModel)):
        raise ConfigurationError(
            f"architecture {architecture}: {target.value} is no subclass of recall_evals.models.SequenceModel"
        )
    return loaded


def detect_architecture(config: Mapping[str, Any]) -> str:
    """Which architecture a published configuration describes.

    Raises:
        ConfigurationError: none that is known; says which fields decide.
    """
    kind = config.get("model_type")
    types = {row.model_type: name for name, row in architectures().items() if row.model_type}
    if isinstance(kind, str) and kind in types:
        return types[kind]
    if "ssm_cfg" in config or ("d_model" in config and "n_embd" not in config):
        return "mamba"
    mixers = [config[name] for name in ("mixer", "alt_mixer", "alt_mixer_2") if isinstance(config.get(name), dict)]
    if any(_ends(mixer.get("_target_"), "PrefixLinearAttention") for mixer in mixers):
        return "jrt"
    if mixers:
        return "based"
    if "n_embd" in config and _ends(config.get("activation_function"), "glu"):
        return "attention"
    raise ConfigurationError(
        "config.json: no architecture known here: looked for ssm_cfg (mamba), mixer / alt_mixer / alt_mixer_2 (based, "
        f"jrt), n_embd with a gated activation_function (attention) or model_type {', '.join(types)}; "
        f"model_type is {shown(kind)}"
    )


def _ends(value: object, suffix: str) -> bool:
    return isinstance(value, str) and value.endswith(suffix)
