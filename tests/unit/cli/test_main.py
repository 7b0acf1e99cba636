"""The command `rft-ray`: its subcommands, and the packages that they do not import before there is work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray import __version__
from rft_ray.cli.job import shipped_configs
from rft_ray.cli.main import COMMANDS, main
from rft_ray.data import external

ROOT = Path(__file__).parents[3]
HEAVY = ("ray", "torch", "vllm", "transformers")
SCRIPTS = ("rft_pipeline", "verify", "report", "scaling_study", "export_pairs")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in COMMANDS)


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rum", "demo"]) == 2
    assert "'rum'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["run", "demo", "--run.nmae=x"], 2), (["run", "no-such-config"], 2), (["study", "--help"], 0)],
)
def test_help_and_config_errors_import_no_heavy_package(arguments: list[str], code: int) -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))"
    program = f"{blocked}; from rft_ray.cli.main import main; sys.exit(main({arguments}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr


def test_no_command_loads_a_heavy_package_to_be_called() -> None:
    modules = ", ".join(f"rft_ray.cli.{module}" for module, _ in COMMANDS.values())
    program = f"import sys, rft_ray.cli.job, {modules}, serve.app; print([x for x in {HEAVY} if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_help_of_run_names_the_shipped_configs_and_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = capsys.readouterr().out
    expected = ["demo", "distil", "k8s", "paper", "qwen", "self_improve", "smollm2", "study", "study_smollm2"]
    assert shipped_configs() == expected
    assert ", ".join(expected) in shown
    assert "problems, models, prompt, sft, rft, sampling" in shown


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_run_from_a_checkout_that_is_not_installed(script: str, tmp_path: Path) -> None:
    packages = [folder for folder in sys.path if folder.endswith("site-packages")]
    lines = [  # -S: no .pth file is read, so that an editable install is not seen
        f"import runpy, sys; sys.path += {packages}; sys.argv = [{script!r}, '--help']",
        f"runpy.run_path({str(ROOT / 'jobs' / f'{script}.py')!r}, run_name='__main__')",
    ]
    command = [sys.executable, "-S", "-E", "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: python jobs/{script}.py" in done.stdout


@pytest.mark.parametrize("command", ["verify", "grade"])
def test_help_of_verify_and_grade_names_every_accepted_column(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    columns = (external.QUESTION_COLUMNS, external.COMPLETION_COLUMNS, external.GOLD_COLUMNS)
    assert all(", ".join(names) in shown for names in columns)


def test_a_reader_that_leaves_early_is_no_defect() -> None:
    """As `rft-ray run CONFIG --dry-run | head -1`."""
    for output in ("'x\\n' * 100_000", "'x'"):
        code = (
            "import sys, time, types; from rft_ray.cli import main; module = types.ModuleType('rft_ray.cli.report');"
            f"module.main = lambda argv, prog: (time.sleep(0.2), print({output}), 0)[-1];"
            "sys.modules['rft_ray.cli.report'] = module; sys.exit(main.main(['report']))"
        )
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.close()
        assert (child.wait(), child.stderr.read() if child.stderr else None) == (141, b"")
        assert child.stderr is not None
        child.stderr.close()


@pytest.mark.parametrize("door", [["-m", "rft_ray.store"], ["jobs/report.py"]], ids=" ".join)
def test_every_door_to_a_command_ends_as_the_command_does(door: list[str]) -> None:
    """As `python -m rft_ray.store --help | true`: no traceback, and the exit code of a closed pipe."""
    read, write = os.pipe()
    os.close(read)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, *door, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=buffered, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_what_the_terminal_cannot_show_is_printed_as_an_escape() -> None:
    code = "from rft_ray.cli.main import main; main([])"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.stdout.startswith("usage: rft-ray COMMAND \\u2026")
    assert shown.stderr == ""


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rft-ray {__version__}\n"
