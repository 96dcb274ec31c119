"""The small trained checkpoints that come with this project, by name: one folder each in `checkpoints/`."""

from pathlib import Path

PREFIX = "bundled:"

# The package's own folder: in an editable install a link to the one at the repository's root.
FOLDER = Path(__file__).parent.parent / "checkpoints"


def bundled_names() -> list[str]:
    """Names of the checkpoints that this installation has, sorted; none where they were left out."""
    return sorted(file.parent.name for file in FOLDER.glob("*/config.json"))


def bundled(name: str) -> Path | None:
    """The folder of a bundled checkpoint, by `based` or `bundled:based`; None where there is none of this name."""
    name = name.removeprefix(PREFIX)
    return FOLDER / name if name in bundled_names() else None


def bundled_here() -> str:
    """Which checkpoints this installation has, or how to get them, as part of a message."""
    if names := bundled_names():
        return f"there are {', '.join(names)}"
    return f"this installation has none, {FOLDER} is empty or missing; `recall-evals train` makes them"
