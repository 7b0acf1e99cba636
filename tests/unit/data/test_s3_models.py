"""Base models on S3, where no server answers."""

from __future__ import annotations

import socket

import pytest

from rft_ray.data.s3_models import _entity_tags
from rft_ray.store.base import StoreUnreachable


def test_an_outage_is_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ModelError would end a training; an outage is waited for."""
    with socket.socket() as silent:  # it has the port and does not listen
        silent.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {"AWS_ENDPOINT_URL": endpoint, "AWS_MAX_ATTEMPTS": "1", "AWS_REGION": "us-east-1"}
        for name, value in {**settings, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(StoreUnreachable, match=r"^S3 is out of reach for s3://bucket/model "):
            _entity_tags("s3://bucket/model")
