"""The Hugging Face hub: its files, whether it can be reached at all, and a sentence for each way in which it fails."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal, overload

from advantageflow.errors import ConfigError, shown

PROBE_SECONDS = 5
GATED = ("stabilityai/stable-diffusion-3.5-medium", "stabilityai/stable-diffusion-3.5-large")  # of what recipes name
PICKLED = (".bin", ".pt", ".pth", ".ckpt")  # code may run where these are opened: they are not


@lru_cache(maxsize=1)
def notice_offline() -> None:
    """Ask the hub once; where nothing answers, work from what was fetched before, without any more asking."""
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception:  # whatever stands between: every version of the client has errors of its own
        constants.HF_HUB_OFFLINE = True


def commit_of_hub(repository: str, file: str) -> str | None:
    """The commit of a repository's file that lies in the cache, if it does."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    if not isinstance(found, str):
        return None
    parts = Path(found).parts
    return parts[parts.index("snapshots") + 1]


def cache_folder() -> Path:
    """Where what is fetched is kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_cached(repository: str) -> bool:
    """Whether something of a model's repository was fetched before."""
    snapshots = cache_folder() / f"models--{repository.replace('/', '--')}" / "snapshots"
    return snapshots.is_dir() and any(snapshots.iterdir())


def is_logged_in() -> bool:
    """Whether there is a token; whether the hub takes it is not asked."""
    from huggingface_hub import get_token

    return get_token() is not None


def account() -> str | None:
    """Ask the hub whose token this is; None without one.

    Raises:
        ConfigError: the hub does not take the token, or cannot be reached.
    """
    from huggingface_hub import HfApi

    if not is_logged_in():
        return None
    try:
        return str(HfApi().whoami()["name"])
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"the hub was asked whose token this is, and failed: {reason}; hf auth login") from error


@overload
def file_of_hub(repository: str, name: str, *, missing: Literal[False] = False) -> Path: ...
@overload
def file_of_hub(repository: str, name: str, *, missing: bool) -> Path | None: ...
def file_of_hub(repository: str, name: str, *, missing: bool = False) -> Path | None:
    """A single file of a repository; None if it may be `missing` and is, or was not fetched before.

    Raises:
        ConfigError: it cannot be had.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    notice_offline()
    try:
        return Path(hf_hub_download(repository, name))
    except (OSError, ValueError) as error:
        absent = isinstance(error, LocalEntryNotFoundError) and constants.is_offline_mode()
        if missing and (absent or isinstance(error, RemoteEntryNotFoundError)):
            return None
        if isinstance(error, RemoteEntryNotFoundError):
            raise ConfigError(f"cannot load {shown(repository)}: it has no file {name}") from error
        raise cannot_fetch(repository, error) from error


def cannot_fetch(repository: str, error: BaseException) -> ConfigError:
    """What to do about an error of the hub's client, or of a library that called it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    causes = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    page = f"{constants.ENDPOINT}/{repository}"
    what = f"cannot load {shown(repository)}"
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return ConfigError(f"{what}: it is gated; accept its licence at {page}, then log in with: hf auth login")
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return ConfigError(
            f"{what}: the hub has no such repository, or it is private; check the name at {page}, or log in with: "
            "hf auth login"
        )
    if constants.is_offline_mode():
        return ConfigError(
            f"{what}: the hub cannot be reached (no network, or HF_HUB_OFFLINE is set), and it was not fetched before; "
            "fetch it once with a network, or give a folder that holds it"
        )
    if any(isinstance(cause, LocalEntryNotFoundError | ConnectionError | TimeoutError) for cause in causes):
        return ConfigError(f"{what}: the hub does not answer; try again later, or give a folder that holds it")
    reason = " ".join(str(error).split())[:300]
    return ConfigError(f"{what}: {reason}; fetch it once with a network, or give a folder that holds it")


def check_repository(repository: str, dry_run: bool = False) -> None:
    """Check that something can be sent to a repository of this name.

    Raises:
        ConfigError: it is not OWNER/NAME, or nobody is logged in, which a dry run needs not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
        if repository.count("/") != 1:
            raise HFValidationError("an owner is missing")
    except HFValidationError as error:
        raise ConfigError(f"{shown(repository)} is no repository of the hub; give OWNER/NAME: {error}") from error
    if not dry_run and not is_logged_in():
        raise ConfigError(
            "nobody is logged in at the hub; log in with: hf auth login, or set HF_TOKEN; --dry-run needs none"
        )


def send(folder: Path, repository: str, private: bool) -> str:
    """Upload a folder, and the address where it is.

    Raises:
        ConfigError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=".*").repo_url)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"cannot send to {repository}: {reason}; nothing here has changed, try again") from error
