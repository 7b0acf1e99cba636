"""Files of the Hugging Face hub: a repository's name -> local paths of the chosen files.

In: `owner/name[@revision]` and a choice among the repository's file names. Out: the folder of the hub
client's own cache (HF_HOME) that holds them. When the hub does not answer the first request within
the client's HF_HUB_ETAG_TIMEOUT (10 seconds), only the cache is used.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rft_ray.config.errors import InputError

Choice = Callable[[Sequence[str]], Sequence[str]]


class HubError(InputError, RuntimeError):
    """A repository cannot be loaded from the hub. The message has the reason and the remedy, but not the source."""


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file, as the hub lists it. Example: RepositoryFile(988097824, "5f0c…")"""

    bytes: int
    sha256: str
    """Empty for a small file, which the hub keeps in git and knows by another hash."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository at one commit. Example: Repository("Qwen/Qwen2.5-0.5B", "060d…", {"config.json": …})"""

    name: str
    commit: str
    files: Mapping[str, RepositoryFile]

    @property
    def pinned(self) -> str:
        """`owner/name@commit`."""
        return f"{self.name}@{self.commit}"


_known: dict[tuple[str, str], Repository] = {}
"""(kind, `owner/name@commit`) -> what the hub has said of it in this process: a commit does not change."""
_folders: dict[tuple[str, str], Path] = {}
"""(kind, `owner/name@commit`) -> the folder in the client's cache with the files that were chosen so far."""


def repository(name: str) -> Repository | None:
    """What the hub knows of a model repository, without its files; None where the hub does not answer.

    A commit is asked for once in a process. Raises HubError where there is no such repository or revision.
    """
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return _asked(name, "model")
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise HubError(_refusal(error, name, "model")) from error
    except Exception:  # the client's HTTP library is not the same in all of its versions
        return None


def known(name: str) -> Repository | None:
    """What this process knows of `owner/name@commit`; None where it has not asked."""
    return _known.get(("model", name))


def remember(repository: Repository, folder: Path) -> None:
    """Know a model repository as if the hub had been asked. `folder`: has its small files, and the commit's name."""
    _known.setdefault(("model", repository.pinned), repository)
    _folders.setdefault(("model", repository.pinned), folder)


def _asked(name: str, kind: str) -> Repository:
    """What the hub knows of a repository. Raises what its client raises."""
    from huggingface_hub import HfApi, constants

    if known := _known.get((kind, name)):
        return known
    repo, _, revision = name.partition("@")
    info = HfApi().repo_info(
        repo,
        repo_type=kind,
        revision=revision or None,
        timeout=constants.HF_HUB_ETAG_TIMEOUT,
        files_metadata=kind == "model",
    )
    files = {
        file.rfilename: RepositoryFile(file.size or 0, file.lfs["sha256"] if file.lfs else "")
        for file in info.siblings or []
    }
    found = Repository(repo, str(info.sha), files)
    _known[kind, found.pinned] = found
    return found


def snapshot(name: str, kind: Literal["model", "dataset"], choose: Choice) -> list[Path]:
    """Local paths of the files that `choose` picks from a repository's file names, in its order.

    `choose` runs before the download, and its exceptions pass through. Raises HubError.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    repo, _, revision = name.partition("@")
    place = {"repo_id": repo, "repo_type": kind, "revision": revision or None}
    try:
        found = _asked(name, kind)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise HubError(_refusal(error, name, kind)) from error
    except Exception as error:  # the client's HTTP library is not the same in all of its versions
        return _cached(place, choose, _unreachable(error, kind))
    chosen = choose(list(found.files))
    there = _folders.get((kind, name))
    if there and all((there / file).is_file() for file in chosen):
        return [there / file for file in chosen]
    try:
        folder = Path(snapshot_download(**place, allow_patterns=[glob.escape(file) for file in chosen]))
    except Exception as error:
        raise HubError(_unreachable(error, kind)) from error
    _folders[kind, found.pinned] = folder
    return [folder / file for file in chosen]


def commit(name: str, kind: Literal["model", "dataset"]) -> str:
    """The commit that a repository's revision stands for in the client's cache, as `snapshot` left it.

    Asks the cache only. Raises HubError when it has no copy.
    """
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repo_id=repo, repo_type=kind, revision=revision or None, local_files_only=True, allow_patterns=[]
        )
    except Exception as error:
        raise HubError(f"the cache has no copy of the hub's {kind} {name}: download it again") from error
    return Path(folder).name


def _cached(place: dict[str, str | None], choose: Choice, reason: str) -> list[Path]:
    """`snapshot` from the hub client's cache alone. Raises HubError with `reason` when the cache has no copy.

    The pattern list is empty because the client refuses a copy that lacks a requested file; `choose` checks the files.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(**place, local_files_only=True, allow_patterns=[]))
    except Exception as error:
        raise HubError(reason) from error
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return [folder / file for file in choose(files)]


def _refusal(error: Exception, name: str, kind: str) -> str:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return f"the hub's {kind} {name} is gated: accept its terms on its page, then set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return f"{name!r} is no name of a hub {kind}: write owner/name, with @revision where needed"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub's {kind} has no revision as in {name}: check the branch, tag or commit after '@'"
    return f"the hub has no {kind} {name}, or it is private: check the name, or set HF_TOKEN"


def _unreachable(error: Exception, kind: str) -> str:
    from huggingface_hub import HfApi

    said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return (
        f"the hub at {HfApi().endpoint} cannot be reached, and the cache has no copy ({said}): check the network, "
        f"HF_ENDPOINT and HF_HUB_OFFLINE, or download the {kind} elsewhere and give its local path"
    )
