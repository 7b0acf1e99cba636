"""Which verifier grades, and what its verdicts depend on: the part of the config that names verdicts.

`VerifierSpec()` is `gsm8k`, the rules of `grader.py`; any other verifier adds its spec to the fingerprint of verdicts.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rft_ray.config import Config, Grading
from rft_ray.config.errors import ConfigError
from rft_ray.grading.grader import Unread

GSM8K = "gsm8k"
IN_CHILD = ("math", "regex", "python")
"""Verifiers that run in a child process, as those of the user do (`module:function`)."""


@dataclass(frozen=True, slots=True)
class VerifierSpec:
    """A verifier by name, and what decides its verdicts besides its code here.

    Example: VerifierSpec("my_rules:grade", "", "9c3f…", 10.0, 4.0)
    """

    name: str = GSM8K
    pattern: str = ""
    """Of `regex`: its first group is the answer."""
    source_sha256: str = ""
    """Of `module:function`: SHA-256 of the module's source file."""
    timeout_s: float = 0.0
    """Of a verifier in a child process: seconds for one completion."""
    memory_gib: float = 0.0
    """Of a verifier in a child process: its memory."""
    reasoning_tags: tuple[str, ...] = ("think",)
    """Tags of the reasoning, which no verifier reads."""
    unread: Unread = "accept"
    """Of gsm8k in strict mode, to collect paths: what a right answer is whose equations cannot all be read."""

    @property
    def is_gsm8k(self) -> bool:
        return self.name == GSM8K

    @property
    def versioned(self) -> str:
        """The name that a version of the verifier's rules has in `VERSIONS`, if it has one. Not for gsm8k."""
        return f"{self.name}_rules"

    @property
    def is_users(self) -> bool:
        """Whether it is a function of the user's own."""
        return ":" in self.name

    @property
    def in_child(self) -> bool:
        return self.is_users or self.name in IN_CHILD

    def identity(self) -> dict[str, object]:
        """The values that enter fingerprints, in JSON's types; empty for gsm8k with the usual tags.

        With the usual tags a name is that of verdicts made before tags were known: only texts with such tags have other
        verdicts now, and models trained on worked solutions do not write them.
        """
        usual = asdict(DEFAULT)
        return {name: value for name, value in asdict(self).items() if value != usual[name]}


DEFAULT = VerifierSpec()


def distinct_by(chosen: str | None, verifier: str) -> str:
    """What equal paths share: `corpus.distinct_by`, or where it is open what the verifier's texts have."""
    return chosen or ("equations" if verifier == GSM8K else "normalised_text")


def spec_of(config: Config) -> VerifierSpec:
    """The spec that a config asks for. Raises ConfigError where the user's module cannot be found."""

    spec = _spec(config.grading, config.corpus.reasoning_tags)
    return replace(spec, source_sha256=source_sha256(spec.name, "grading.verifier")) if spec.is_users else spec


def _spec(grading: Grading, reasoning_tags: tuple[str, ...]) -> VerifierSpec:
    spec = VerifierSpec(grading.verifier, grading.pattern or "", reasoning_tags=reasoning_tags, unread=grading.unread)
    return replace(spec, timeout_s=grading.timeout_s, memory_gib=grading.memory_gib) if spec.in_child else spec


def saved_spec(config: Mapping[str, Any]) -> VerifierSpec:
    """The spec of a run's saved config, as a tree; gsm8k for an empty one.

    That of a user's function has no hash of its module, which need not be here: `corpus/graded.py` reads the hash that
    the run's verdicts were made with.
    """
    if not config:
        return DEFAULT
    tags = config["corpus"].get("reasoning_tags", DEFAULT.reasoning_tags)
    return _spec(Grading.model_validate(config["grading"]), tuple(tags))


def source_sha256(function: str, key: str) -> str:
    """SHA-256 of the source file of `module:function`, without importing it. Raises ConfigError, which names `key`."""
    module = function.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.origin or not Path(found.origin).is_file():
        raise ConfigError(
            f"{key}={function}: there is no module {module!r} on Python's path: start the job in the module's folder "
            "with PYTHONPATH=., or install it"
        )
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
