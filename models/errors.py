"""What loading a model can refuse; each message names the file, the field and the remedy."""


class ModelError(ValueError):
    """A model that can't be used as it is."""


class ConfigurationError(ModelError):
    """A configuration with a missing, contradictory or unsupported field."""


class CheckpointError(ModelError):
    """Weights that are absent, unreadable or don't fit their configuration."""
