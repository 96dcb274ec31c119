"""Files of the Hugging Face hub's repositories, through the hub's cache; what goes wrong is said in one line."""

import errno
import re
from pathlib import Path

from .errors import CheckpointError, first_line

LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def fetch_from_hub(repository: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a repository, from the cache or the hub; HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE apply.

    huggingface_hub goes on with a download that breaks off from its last whole 10 MiB, until several attempts in a row
    bring none; then it is an error, and the file (not those that arrived whole) starts anew with the next run.

    Args:
        repository: owner/name.
        name: of the file, with the folders it lies in.
        revision: branch, tag, commit or refs/pr/N; None is main. With a commit nothing is asked for that was answered
            before, not even that there is no such file.

    Returns:
        None where the repository has no such file; offline (HF_HUB_OFFLINE=1), where the cache has none.

    Raises:
        CheckpointError: no such repository or revision, no access, an unreachable or failing hub, a broken download,
            no room for it. Names the repository and the remedy.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, is_offline_mode, try_to_load_from_cache

    # HTTPError is httpx's or httpx2's, whichever huggingface_hub is built on.
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError, LocalEntryNotFoundError

    try:
        known = try_to_load_from_cache(repository, name, revision=revision)
        if known is _CACHED_NO_EXIST and revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
            return None
        return Path(hf_hub_download(repository, name, revision=revision))
    except HFValidationError as error:
        raise CheckpointError(
            f"{repository}: no such folder, and not a hub id, which has the form owner/name"
        ) from error
    except LocalEntryNotFoundError as error:
        if is_offline_mode() or known is _CACHED_NO_EXIST:
            return None
        raise CheckpointError(_unreachable(repository, name, error.__cause__ or error)) from error
    except EntryNotFoundError:
        return None
    except (HTTPError, OSError, RuntimeError) as error:  # the last from hf_xet, which brings large files
        raise CheckpointError(_refused(repository, name, revision, error)) from error


def _unreachable(repository: str, name: str, error: BaseException) -> str:
    from huggingface_hub.constants import ENDPOINT

    return (
        f"{repository}: {name} is not in the hub's cache, and the hub at {ENDPOINT} could not be asked "
        f"({_one_line(error)}); check the connection and HF_ENDPOINT, give a folder instead, or set HF_HUB_OFFLINE=1 "
        "to use what the cache holds"
    )


def _refused(repository: str, name: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"{ENDPOINT}/{repository}"
    if isinstance(error, GatedRepoError):
        return f"{repository} is gated: accept its terms on {page}, then {LOGIN}, as the account that accepted them"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repository}: there is no such folder, and the hub at {ENDPOINT} shows no such repository; "
            f"check the name; if it is private, {LOGIN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{repository} has no revision {revision!r}: give revision=<branch, tag, commit or refs/pr/N>; "
            f"{page}/tree/main lists the branches and tags"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return (
                f"{repository}: the hub refuses the token ({error.server_message or status}); "
                "log in again with `hf auth login`, or correct or unset HF_TOKEN"
            )
        if status == 429:
            return f"{repository}: {name}: too many requests (429); wait some minutes and run again, or {LOGIN}"
        remedy = "run again later" if status >= 500 else f"look at {page}"
        return f"{repository}: {name}: the hub answered {_one_line(error)}; {remedy}"
    if isinstance(error, OSError) and (error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return (
            f"{repository}: {name} could not be stored in {HF_HUB_CACHE} ({_one_line(error)}); make room or "
            "write access there, or set HF_HOME to another folder"
        )
    return (
        f"{repository}: the download of {name} broke off ({_one_line(error)}); run again: files that arrived whole are "
        "kept in the cache"
    )


def _one_line(error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):  # its own text holds the address, with the signature that opens the file
        return f"{error.response.status_code} {error.response.reason_phrase}"
    return first_line(error)
