"""What loading a model can refuse; each message names the file, the field and the remedy."""


class ModelError(ValueError):
    """A model that can't be used as it is."""


class ConfigurationError(ModelError):
    """A configuration with a missing, contradictory or unsupported field."""


class CheckpointError(ModelError):
    """Weights that are absent, unreadable or don't fit their configuration."""


def first_line(error: BaseException) -> str:
    """Of another library's error what its message begins with, or, without one, its kind."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
