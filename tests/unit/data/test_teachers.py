"""The identity of a model behind an endpoint is its name."""

from __future__ import annotations

import pytest

from rft_ray.data import base_models
from rft_ray.data.tiny import model_dir
from rft_ray.store.models.folder import ModelError


def test_a_teacher_is_identified_by_its_name_and_any_other_model_by_its_files() -> None:
    assert base_models.fingerprint("openai:gpt-x") != base_models.fingerprint("openai:gpt-y")
    assert base_models.fingerprint("tiny:tiny-s") == base_models.fingerprint(str(model_dir("tiny-s")))


def test_a_teacher_has_no_files() -> None:
    with pytest.raises(ModelError, match="openai:gpt-x: a model behind an endpoint has no files"):
        base_models.resolve("openai:gpt-x")
