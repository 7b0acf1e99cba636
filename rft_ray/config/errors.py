"""The errors that end a job with one line instead of a traceback: one root, two kinds.

An error of either kind has a message for the user: what is wrong, where, and what to do. Any other exception is a
defect of the program and keeps its traceback.
"""

from __future__ import annotations


class RftError(Exception):
    """The root of all errors with a message for the user."""


class InputError(RftError):
    """The config, the data or a model cannot be used: the same command fails again until they are corrected."""


class RunError(RftError):
    """The run failed. What is committed stays: the same command goes on from there."""


class ConfigError(InputError, ValueError):
    """A config that cannot be used. The message names the key, what is wrong and the nearest valid key."""
