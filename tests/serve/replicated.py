"""The service through Ray Serve with a scripted engine: two replicas of the ingress and two of the engine.

    python -m tests.serve.replicated PORT KEY_FILE

runs until SIGTERM; SIGUSR1 deploys everything again, as a rolling update. It runs on a Ray of its own. It prints the
number of running replicas of each deployment whenever one changes.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from typing import Any

from serve import runner

MODEL = "scripted-rft"
TOKEN_S = 0.08
SERVE_API = threading.Lock()
"""Held by the thread that calls Serve: its configs are serialized with a list of modules of the whole process."""


def build() -> Any:
    from ray import serve  # not at the top: the runner sets Ray's variables first

    from serve import ingress, scripted
    from serve.access.api_keys import load_keys

    options: dict[str, Any] = {"num_replicas": 2, "max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": 0}}
    options["graceful_shutdown_timeout_s"] = runner.DRAIN_S
    engine = serve.deployment(scripted.ScriptedServer, name="engine", **options).bind(MODEL, token_s=TOKEN_S)
    keys = load_keys(sys.argv[2], {})
    return ingress.deploy(
        {MODEL: engine}, [scripted.card(MODEL)], keys, gpu=False, capacity=1000, max_tokens=256, replicas=2
    )


def print_running_replicas() -> None:
    from ray import serve

    printed = ""
    while True:
        with SERVE_API:
            deployments = serve.status().applications[runner.APP].deployments
        counts = {name: deployment.replica_states.get("RUNNING", 0) for name, deployment in deployments.items()}
        line = f"running: {json.dumps(counts, sort_keys=True)}"
        if line != printed:
            print(printed := line, flush=True)
        time.sleep(0.3)


def started(url: str) -> None:
    threading.Thread(target=print_running_replicas, daemon=True).start()
    print(f"ready: {url}", flush=True)


def redeploy() -> None:
    with SERVE_API:
        runner._deploy(build())
    print("deployed again", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=redeploy).start())
    runner.run_until_stopped(
        build,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        address=None,
        verbose=False,
        ready=started,
    )
