"""The command line as a whole: its help, its exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

import private_distdd
from private_distdd.cli import main
from private_distdd.cli.main import COMMANDS as COMMAND_MODULES


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("demo", "distill", "evaluate", "plan", "verify"))


COMMANDS = ("demo", "distill", "evaluate", "plan", "verify", "audit", "sweep", "site", "flower")


def test_help_and_parsing_do_not_wait_for_torch() -> None:
    script = "import sys; from private_distdd.cli.main import _parser\n"
    script += "_parser().parse_args(['plan', '--rounds', '3', '--target-epsilon', '1'])\n"
    script += f"for command in {COMMANDS}:\n"
    script += "    try: _parser().parse_args([command, '--help'])\n"
    script += "    except SystemExit as stop: assert stop.code == 0\n"
    script += "assert not {'torch', 'numpy'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"usage: private-distdd {command} " in done.stdout for command in COMMANDS)


def test_every_command_is_a_module_of_its_own() -> None:
    assert [module.__name__.rpartition(".")[2] for module in COMMAND_MODULES] == list(COMMANDS)


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "private_distdd.cli", "verify", "/nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: /nowhere; allowed: a release folder.")


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"private-distdd {private_distdd.__version__}\n"
