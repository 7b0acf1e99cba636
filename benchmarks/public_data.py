"""Fetches the public files that `graders.py` reads, each at a pinned commit: a folder -> local paths.

A set of files is checked against one SHA-256 that is recorded here: of the lines `<SHA-256 of a file>  <name>` of its
files, sorted by name. Files that are already in the folder are not fetched again, and a set that is not the recorded
one is refused. Raises FetchError, which says what to do.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rft_ray.config.errors import InputError
from rft_ray.store.base import partial_file

ADDRESS = "https://raw.githubusercontent.com"
TIMEOUT_S = 60.0
MAX_FILE_BYTES = 64 << 20
_CHAT_MODELS = """
Athene-70B DeepSeek-Coder-V2-0724 Llama-3.1-405B-Inst@sambanova Llama-3.1-405B-Instruct-Turbo Meta-Llama-3-70B-Instruct
Meta-Llama-3-8B-Instruct Meta-Llama-3.1-405B-Instruct@hyperbolic Meta-Llama-3.1-70B-Instruct Meta-Llama-3.1-8B-Instruct
Mistral-Large-2 Mistral-Nemo-Instruct-2407 Mixtral-8x7B-Instruct-v0.1 Phi-3.5-mini-instruct Qwen2-72B-Instruct
Qwen2-7B-Instruct Yi-1.5-34B-Chat Yi-1.5-9B-Chat claude-3-5-haiku-20241022 claude-3-5-sonnet-20240620
claude-3-5-sonnet-20241022 claude-3-haiku-20240307 claude-3-opus-20240229 claude-3-sonnet-20240229 command-r-plus
command-r deepseek-chat deepseek-coder deepseek-v2.5-0908 gemini-1.5-flash-exp-0827 gemini-1.5-flash
gemini-1.5-pro-exp-0801 gemini-1.5-pro gemma-2-27b-it@together gemma-2-2b-it gemma-2-9b-it gpt-3.5-turbo-0125
gpt-4o-2024-05-13 gpt-4o-2024-08-06 gpt-4o-mini-2024-07-18 o1-mini-2024-09-12 reka-core-20240501 reka-flash-20240226
yi-large-preview yi-large
"""


class FetchError(InputError, OSError):
    """A public file that cannot be fetched, or is not the recorded one."""


@dataclass(frozen=True, slots=True)
class PublicFiles:
    """Files of one GitHub repository at one commit; `sha256` as the module says."""

    repository: str
    commit: str
    paths: tuple[str, ...]
    sha256: str


SETS = {
    "gsm8k-solutions": PublicFiles(
        "openai/grade-school-math",
        "3101c7d5072418e28b9008a6636bde82a006892c",
        ("grade_school_math/data/example_model_solutions.jsonl",),
        "4c59e333b621186d2f7f3436b5a8c5ed53627fd5af48d7d83ab4bfbb7a5fb636",
    ),
    "abel": PublicFiles(
        "GAIR-NLP/abel",
        "3a24ef24e9ea32708fe4fa4c36bf504a74b4bdf0",
        tuple(f"outputs/{kind}/{size}.jsonl" for kind in ("gsm8k", "gsm8k_robust") for size in ("7b", "13b", "70b")),
        "d38d3f7294d4d976c076ee4c8d0ddaf5169729e00b4bf8e4cc3af712a3e7cece",
    ),
    "zeroeval": PublicFiles(
        "WildEval/ZeroEval",
        "8c1485edf12c6efb5f69135a562927c5ad484059",
        tuple(f"result_dirs/gsm/{model}.json" for model in _CHAT_MODELS.split()),
        "883e28bfab0b48b4be317209b293fd8e36bca4174dcd88cfaf63b773f5a87905",
    ),
    "bigbench-mistake": PublicFiles(
        "WHGTyen/BIG-Bench-Mistake",
        "270683a4ecce6f3b22c4ab28a204ab8fa09f2517",
        ("multistep_arithmetic.jsonl",),
        "7d9b67a06aa792d50d808e971f66d87f96c410fb0a5dffb8a45c09bc8042ca5a",
    ),
    "mr-gsm8k": PublicFiles(
        "dvlab-research/MR-GSM8K",
        "3f666d60dd5f2fe31d619c528076bac54f4a13b7",
        tuple(
            f"eval_results/gpt4-grading/{model}_eval_results.json"
            for model in ("Claude", "GPT3_5", "llama2_70b", "mammoth_70B", "metamath_70B", "wizardmath_70B")
        ),
        "d610cb69c76c76e8d2f8215f971ae0ba44176821554c60219ea19bcc7653ea56",
    ),
    "math-verify": PublicFiles(
        "huggingface/Math-Verify",
        "5d148cfaaf99214c2e4ffb4bc497ab042c592a7a",
        tuple(f"tests/test_{name}.py" for name in ("all", "boxed", "numina_cases", "open_thoughts", "yujianll")),
        "a948ca1b6ec35ad27410e364e3bbead5587f63c8c64a29acabaf98e90e7a381b",
    ),
    "lm-eval": PublicFiles(
        "EleutherAI/lm-evaluation-harness",
        "4e7e0d47f33bc71070c1d38394bafbb52b117163",
        tuple(f"lm_eval/tasks/gsm8k/gsm8k{name}.yaml" for name in ("", "-cot", "-cot-llama")),
        "db929722bcba767b93ebe3482e1d39de880277d0b11a2389b7ff38a1aa627d7f",
    ),
}
"""By the name of the option that reads them."""


def fetched(name: str, folder: Path, address: str = ADDRESS) -> list[Path]:
    """The files of a set in `folder`/`name`, fetched where they are missing. Raises FetchError."""
    files = SETS[name]
    local = [folder / name / local_name(files, path) for path in files.paths]
    for path, target in zip(files.paths, local, strict=True):
        if not target.exists():
            url = f"{address}/{files.repository}/{files.commit}/{urllib.parse.quote(path)}"
            print(f"fetching {url}", flush=True)
            _fetch(url, target)
    if digest(local) != files.sha256:
        raise FetchError(
            f"{folder / name}: not the files of {files.repository} at {files.commit[:7]} (SHA-256 {digest(local)}, "
            f"recorded {files.sha256}): remove the folder, and fetch again"
        )
    return local


def local_name(files: PublicFiles, path: str) -> str:
    """A file's name in its folder: the last part, after its folder where two files of the set share it."""
    names = [Path(other).name for other in files.paths]
    own = Path(path)
    return own.name if names.count(own.name) == 1 else f"{own.parent.name}-{own.name}"


def digest(paths: list[Path]) -> str:
    """SHA-256 of a set of files, as the module says."""
    lines = sorted((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths)
    return hashlib.sha256("".join(f"{sha256}  {name}\n" for name, sha256 in lines).encode()).hexdigest()


def _fetch(url: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            content = answer.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
        raise FetchError(
            f"{url} cannot be fetched ({getattr(error, 'reason', error)}): check the network, or fetch the file by "
            "other means and name it with an option"
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise FetchError(f"{url} has more than {MAX_FILE_BYTES >> 20} MiB: this is not the file that is meant")
    with partial_file(target) as partial:
        partial.write_bytes(content)
