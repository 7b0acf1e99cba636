"""The real service, started once for each of its two forms and shared by the files that only ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.running import BASE, MODEL, Service, running


@pytest.fixture(scope="session", params=["compare", "rft"], ids=["two models", "single process"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two models behind Serve's proxy and an ingress, and one model in one process."""
    models = [MODEL, BASE] if request.param == "compare" else [MODEL]
    with running(tmp_path_factory.mktemp("service"), request.param, models) as started:
        yield started
