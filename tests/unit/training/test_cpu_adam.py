"""DeepSpeed's Adam for CPUs: where it is compiled, and what is said where it cannot be."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rft_ray.training import cpu_adam
from rft_ray.training.cpu_adam import CompileError, compiled


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module that is run instead of the one that compiles."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(cpu_adam, "MODULE", "stand_in")
    monkeypatch.setenv("CXX", "sh")
    return tmp_path / "stand_in.py"


def test_without_a_compiler_nothing_is_tried(child: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child.write_text("raise SystemExit('error: this was run')")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompileError, match=r"^there is no C\+\+ compiler no-such-compiler$"):
        compiled()


def test_the_file_is_that_of_the_last_line(child: Path, tmp_path: Path) -> None:
    child.write_text(f"print('Time to load: 1 s')\nprint('compiled: {tmp_path}/cpu_adam.so')")
    assert compiled() == tmp_path / "cpu_adam.so"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "print('[1/2] c++ x.cpp')\nprint('x.cpp:1:10: fatal error: Python.h: No such file')\nraise SystemExit(1)",
            "x.cpp:1:10: fatal error: Python.h: No such file",
        ),
        ("raise RuntimeError('Ninja is required to load')", "RuntimeError: Ninja is required to load"),
        ("import os\nos.kill(os.getpid(), 4)", "it ended with signal 4"),  # an instruction that this CPU lacks
        ("print('nothing to say')", "it ended with exit code 0"),
    ],
)
def test_a_failure_is_one_line_that_says_why(child: Path, code: str, reason: str) -> None:
    child.write_text(code)
    with pytest.raises(CompileError) as caught:
        compiled()
    assert str(caught.value) == reason


def test_what_takes_too_long_is_ended_with_its_compilers(child: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    child.write_text(
        "import subprocess\n"
        "compiler = subprocess.Popen(['sleep', '600'])\n"
        f"with open({str(pid)!r}, 'w') as file:\n    file.write(str(compiler.pid))\n"
        "compiler.wait()\n"
    )
    with pytest.raises(CompileError, match="was not compiled within 3 s"):
        compiled(limit_s=3)
    for _ in range(100):
        if not running(int(pid.read_text())):
            return
        time.sleep(0.05)
    raise AssertionError("the compiler goes on")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_each_kind_of_cpu_has_its_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    cpuinfo = pytest.importorskip("cpuinfo")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    folders = []
    for flags in (["avx2"], ["avx2", "avx512f"], ["avx2"]):
        monkeypatch.setattr(cpuinfo, "get_cpu_info", lambda flags=flags: {"brand_raw": "A CPU", "flags": flags})
        folders.append(cpu_adam.folder())
    assert folders[0] == folders[2] != folders[1]
    assert {os.path.dirname(folder) for folder in folders} == {str(tmp_path)}
