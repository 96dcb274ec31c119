"""SHA256SUMS, the list that `sha256sum` writes: where a folder has one, no file is read from it that differs."""

import hashlib
import re
from pathlib import Path

from .errors import CheckpointError
from .fields import shown

SUMS = "SHA256SUMS"
AGAIN = "take it again from where the checkpoint came from"


class Checksums:
    """What the SHA256SUMS of a folder lists; a folder without one vouches for nothing and nothing is checked.

    Args:
        folder: of a checkpoint, or of a tokenizer.

    Raises:
        CheckpointError: a list that can't be read, a line that is no `<64 hex digits>  <name>`, a name that leads out
            of the folder or stands twice, a listed file that is missing.
    """

    def __init__(self, folder: Path):
        self.folder, self.list = folder, folder / SUMS
        self.expected: dict[str, str] | None = None
        if self.list.exists() or self.list.is_symlink():
            self.expected = _read(self.list)
            if missing := [name for name in self.expected if not _is_file(folder / name)]:
                raise CheckpointError(
                    f"{self.list}: lists files that the folder lacks: {', '.join(map(shown, missing[:20]))}; copy the "
                    f"whole folder, or {AGAIN}"
                )

    def check(self, name: str) -> Path:
        """The file of that name in the folder, whose content is as listed.

        Raises:
            CheckpointError: another content, or, where there is a list, a file that is not in it.
        """
        file = self.folder / name
        if self.expected is None:
            return file
        if (expected := self.expected.get(name)) is None:
            raise CheckpointError(
                f"{file}: is not listed in {SUMS} beside it, which then can't vouch for it; {AGAIN} with its {SUMS}, "
                f"or add its line, as `sha256sum {name}` prints it"
            )
        try:
            found = sha256(file)
        except OSError as error:
            raise CheckpointError(f"{file}: can't be read ({error}); check the file") from error
        if found != expected:
            raise CheckpointError(
                f"{file}: its SHA-256 is {found}, {SUMS} says {expected}: it is damaged or was changed; {AGAIN}, or "
                f"correct its line in {SUMS} if the change is meant"
            )
        return file


def sha256(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than any file's
        return False


def _read(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: can't be read ({shown(str(error))}); {AGAIN}") from error
    listed: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        # An asterisk marks a file that was read as binary; `sha256sum ./*` writes names with ./ before them.
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line)
        if not match:
            raise CheckpointError(
                f"{file}: line {number} is {shown(line)}, not `<64 hexadecimal digits>  <name>` as sha256sum writes "
                f"it; {AGAIN}"
            )
        digest, name = match[1].lower(), match[2]
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise CheckpointError(f"{file}: line {number} names {shown(name)}, which is not in the folder; {AGAIN}")
        if name in listed:
            raise CheckpointError(f"{file}: line {number} lists {shown(name)} a second time; {AGAIN}")
        listed[name] = digest
    return listed
