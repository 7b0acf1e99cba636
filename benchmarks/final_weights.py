"""How long the commit of a finished model takes: `python -m benchmarks.final_weights [--gib 1] [--mb-per-s 50]`.

Input: a Llama of random bfloat16 weights, processes that are a node each, and a store that takes so many MB/s from
each node. Output, as medians of rounds by turns, for one rank and for several: seconds from the end of the training to
the manifest, of them for writing the files of weights, and the largest growth of a process's memory; and the ratios.

Limits: gloo ranks on the CPUs of one machine, ZeRO 0 to 2 (each rank holds the weights). The store's time is slept,
so only what the cores do (writing, hashing) is shared between the nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import SlowStore
from rft_ray.config import Training
from rft_ray.training import final_weights
from rft_ray.training.agreement import patient_group, wait_for_all
from rft_ray.training.trainer import Group

FILES = 8
"""Files of weights, about: as a model of 32 GB has at 4 GB a file."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0, help="size of the weights (default 1)")
    parser.add_argument("--mb-per-s", type=float, default=50.0, help="what the store takes from a node (default 50)")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results: dict[int, list[dict[str, float]]] = {1: [], options.ranks: []}
    for _ in range(options.rounds):
        for ranks, found in results.items():
            found.append(committed(ranks, options.gib, options.mb_per_s))
    print(f"weights of {options.gib:g} GiB in about {FILES} files, a store that takes {options.mb_per_s:g} MB/s a node")
    medians = {
        ranks: {name: statistics.median(each[name] for each in found) for name in found[0]}
        for ranks, found in results.items()
    }
    for ranks, times in medians.items():
        print(
            f"{ranks} rank(s): {times['all']:.1f} s, of them {times['writing']:.1f} s for writing; "
            f"at most {times['memory']:.2f} GB more memory in a process"
        )
    one, several = medians.values()
    print(f"{options.ranks} ranks take {several['all'] / one['all']:.2f} of the time of one")


def committed(ranks: int, gib: float, rate: float) -> dict[str, float]:
    """Seconds and GB of one commit: the slowest rank's times, and the largest memory of one."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        command = [sys.executable, "-m", "benchmarks.final_weights", "--as-rank"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1"}
        env |= {"MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(ranks)}
        probe.close()
        children = [
            subprocess.Popen(
                [*command, folder, str(gib), str(rate)], env={**env, "RANK": str(rank)}, stdout=subprocess.PIPE
            )
            for rank in range(ranks)
        ]
        lines = [child.communicate()[0].decode().splitlines() for child in children]
        if any(child.returncode for child in children):
            raise SystemExit("a rank failed: see above")
    every = [json.loads(line[-1]) for line in lines]
    return {name: max(each[name] for each in every) for name in every[0]}


def as_rank(folder: Path, gib: float, rate: float) -> None:
    """Commit the model as one of the ranks, and print its times."""
    import deepspeed  # noqa: F401  its import is no part of a commit
    import torch.distributed
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    store: Any = SlowStore(folder / "store", rate * 1e6)
    group = Group("a", store, Training(), False, None, rank, 0, world, node_rank=rank, patient=patient_group())
    layers = 16
    width = int((gib * 2**30 / (2 * layers * 12)) ** 0.5) // 64 * 64
    shape = {"hidden_size": width, "intermediate_size": width * 8 // 3, "num_attention_heads": width // 64}
    with torch.device("meta"):
        config = LlamaConfig(vocab_size=64, num_hidden_layers=layers, num_key_value_heads=width // 64, **shape)
        model = LlamaForCausalLM(config).bfloat16()
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.random_(-3, 4)
    own = folder / f"own-{rank}"
    own.mkdir()
    final_weights.FILE_SIZE = str(int(gib * 1024 / FILES) + 1) + "MB"
    wait_for_all(group)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    files = final_weights.files_of(model)
    assert files is not None
    final_weights.write_weights(group, files, own)
    writing = time.monotonic() - began
    if rank == 0:
        model.config.save_pretrained(own)
        (own / final_weights.INDEX).write_text(files.index)
        (own / "tokenizer.json").write_text("{}")
    final_weights.commit(group, "5f0c5f0c5f0c5f0c", sorted(own.iterdir()), {})
    wait_for_all(group)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9
    shutil.rmtree(own)
    print(json.dumps({"all": time.monotonic() - began, "writing": writing, "memory": memory}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-rank"]:
        as_rank(Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
    else:
        main()
