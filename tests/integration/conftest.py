"""One Ray for all integration tests: loopback, token authentication, more logical CPUs than cores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from rft_ray.runtime import ray_private
from tests.s3server import S3Server, s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server that this process and the nodes of `ray_cluster` have in their environment."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        os.environ |= server.environment()
        yield server


@pytest.fixture(scope="session")
def ray_cluster(s3: S3Server) -> Iterator[str]:
    """Address of a running local cluster that this process is a driver of; subprocesses may join it."""
    import ray

    with tempfile.TemporaryDirectory(prefix="rft", ignore_cleanup_errors=True) as folder:  # socket paths must be short
        context = ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=True,  # Ray Train asks the dashboard whether its own controller lives
            dashboard_host="127.0.0.1",
            object_store_memory=512 * 2**20,
            log_to_driver=False,
            **ray_private.LOOPBACK,
            **{ray_private.TEMP_FOLDER: folder},
        )
        yield context.address_info["address"]
        ray.shutdown()
