"""The SHA-256 of every file that pip's configured indexes publish of a release.

    python cluster/pip_index.py [options of `pip install`] < pins.json > hashes.json

In: name -> version. Out: name -> list of SHA-256. pip has no public interface for it, so this script calls pip's
internals, as they are in pip 23.2 to 26.3: the indexes, credentials, proxies and certificates are those that
`pip install` uses. It is a process of its own: an imported pip changes what `import distutils` gives to other packages.
tests/unit/cluster/test_pip_index.py is the contract.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from pip._internal.commands import create_command
from pip._internal.index.collector import LinkCollector, parse_links
from pip._internal.models.link import Link


def published(pins: Mapping[str, str], *options: str) -> dict[str, set[str]]:
    """Name -> SHA-256 of all files of the pinned version, for every platform, where `pip install OPTIONS` looks.

    A package that no index offers, or that no index could be asked for, has an empty set.
    """
    logging.getLogger("pip").setLevel(logging.ERROR)  # a warning for every package that a local index lacks
    command = create_command("install")
    values, _ = command.parse_args([*options])
    with command.main_context():
        collector = LinkCollector.create(command.get_default_session(values), options=values)
        return {name: set(_hashes(collector, name, version)) for name, version in pins.items()}


def _hashes(collector: LinkCollector, name: str, version: str) -> Iterator[str]:
    for link in _links(collector, name):
        if _release(link.filename) == (name, version):
            if link.hash_name == "sha256":
                yield str(link.hash)
            elif link.is_file:  # a folder of wheels, without an index of hashes
                yield hashlib.sha256(Path(link.file_path).read_bytes()).hexdigest()


def _links(collector: LinkCollector, name: str) -> Iterator[Link]:
    """The links to files of this project, and maybe of others, whatever platform they are for."""

    def on_page(location: Link) -> list[Link]:
        page = collector.fetch_response(location)
        return [] if page is None else list(parse_links(page))

    for source in itertools.chain(*collector.collect_sources(name, candidates_from_page=on_page)):
        if source is not None:
            yield from source.page_candidates()
            yield from source.file_links()


def _release(filename: str) -> tuple[str, str] | None:
    """(name, version) of a wheel or source archive, None for any other file."""
    try:
        name, version, *_ = (parse_wheel_filename if filename.endswith(".whl") else parse_sdist_filename)(filename)
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None
    return name, str(version)


if __name__ == "__main__":
    json.dump(
        {name: sorted(hashes) for name, hashes in published(json.load(sys.stdin), *sys.argv[1:]).items()}, sys.stdout
    )
