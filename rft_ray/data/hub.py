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
from rft_ray.store.models.arrivals import arriving

Choice = Callable[[Sequence[str]], Sequence[str]]
Kind = Literal["model", "dataset"]


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
    """A repository at one commit. Example: Repository("Qwen/Qwen2.5-0.5B", "060d…", {"config.json": …})"""

    name: str
    commit: str
    files: Mapping[str, RepositoryFile]
    kind: Kind = "model"

    @property
    def pinned(self) -> str:
        """`owner/name@commit`."""
        return f"{self.name}@{self.commit}"


_known: dict[tuple[str, str], Repository] = {}
"""(kind, `owner/name@commit`) -> what the hub has said of it in this process: a commit does not change."""
_folders: dict[tuple[str, str], Path] = {}
"""(kind, `owner/name@commit`) -> the folder in the client's cache with the files that were chosen so far."""
_read: dict[tuple[str, str], dict[str, Path]] = {}
"""(kind, `owner/name@commit`) -> names and local paths of these files."""
_commits: dict[tuple[str, str], str] = {}
"""(kind, `owner/name[@revision]`) -> the commit at which files were chosen last."""


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


def known(name: str, kind: Kind = "model") -> Repository | None:
    """What this process knows of `owner/name@commit`; None where it has not asked."""
    return _known.get((kind, name))


def files_read(repository: Repository) -> dict[str, Path]:
    """File name -> local path of each file of the repository that this process has read."""
    return dict(_read.get((repository.kind, repository.pinned), {}))


def remember(repository: Repository, folder: Path) -> None:
    """Know a repository as if the hub had been asked. `folder`: has its recorded files, and the commit's name."""
    _known.setdefault((repository.kind, repository.pinned), repository)
    _folders.setdefault((repository.kind, repository.pinned), folder)


def newer_commit(name: str, kind: Kind, commit: str) -> str:
    """The commit of the revision in `owner/name[@revision]` now; empty where it is `commit`, or cannot be asked for."""
    if name.endswith(f"@{commit}"):
        return ""
    try:
        there = _commits.get((kind, name)) or _asked(name, kind).commit
    except Exception:  # the client's HTTP library is not the same in all of its versions
        return ""
    return "" if there == commit else there


def _asked(name: str, kind: Kind) -> Repository:
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
    found = Repository(repo, str(info.sha), files, kind)
    _known[kind, found.pinned] = found
    return found


def snapshot(name: str, kind: Kind, choose: Choice) -> list[Path]:
    """Local paths of the files that `choose` picks from a repository's file names, in its order.

    `choose` runs before the download, and its exceptions pass through. Raises HubError.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    repo, _, revision = name.partition("@")
    place = {"repo_id": repo, "repo_type": kind, "revision": revision or None}
    try:
        found = _asked(name, kind)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise HubError(_refusal(error, name, kind)) from error
    except Exception as error:  # the client's HTTP library is not the same in all of its versions
        folder = _cached(place, _unreachable(error, kind))
        _commits[kind, name] = folder.name
        files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        return [folder / file for file in choose(files)]
    chosen = choose(list(found.files))
    there = _folders.get((kind, found.pinned))
    if there and all((there / file).is_file() for file in chosen):
        folder = there
    else:
        blobs = Path(constants.HF_HUB_CACHE, f"{kind}s--{repo.replace('/', '--')}", "blobs")
        try:
            with arriving(blobs, "*"):
                folder = Path(snapshot_download(**place, allow_patterns=[glob.escape(file) for file in chosen]))
        except Exception as error:
            raise HubError(_unreachable(error, kind)) from error
        _folders[kind, found.pinned] = folder
    paths = {file: folder / file for file in chosen}
    _commits[kind, name] = folder.name
    _read.setdefault((kind, found.pinned), {}).update(paths)
    return list(paths.values())


def commit(name: str, kind: Kind) -> str:
    """The commit at which `snapshot` has read `owner/name[@revision]` in this process."""
    return _commits[kind, name]


def _cached(place: dict[str, str | None], reason: str) -> Path:
    """The folder of the repository in the hub client's cache. Raises HubError with `reason` when it has none.

    The pattern list is empty because the client refuses a copy that lacks a requested file.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(**place, local_files_only=True, allow_patterns=[]))
    except Exception as error:
        raise HubError(reason) from error


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
