"""A Python without the packages, and packages that cannot be loaded, end in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hugcoder.installed import why_not_loaded

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = [[path.name] for path in sorted(ROOT.glob("*.py")) if path.name != "fim.py"]
PROGRAMS += [["-m", path.parent.name] for path in sorted(ROOT.glob("*/__main__.py"))]
PROGRAMS += [["scripts/launch.py", "torchrun", "train.py"]]


def run(*words, **environment) -> subprocess.CompletedProcess:
    env = os.environ | environment
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_a_python_without_the_packages_names_the_virtual_environment(program):
    ended = run("-S", "-E", *program)  # as where it is not active: no site-packages
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "transformers" in line
    assert "source .venv/bin/activate" in line


@pytest.mark.parametrize("program", [["generate.py"], ["scripts/launch.py", "torchrun"]])
def test_a_package_that_cannot_be_loaded_names_the_variable(program):
    ended = run(*program, "README.md", "--prompt", "x", TORCH_LOGS="perhaps")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert "torch cannot be loaded" in last
    assert "TORCH_LOGS" in last.partition("correct or unset ")[2]


def test_a_working_folder_that_is_gone_is_said(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    program = f"cd {gone}; rmdir {gone}; exec {sys.executable} {ROOT}/generate.py"
    ended = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "the working folder has been removed" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_error_of_ours_is_not_called_one_of_loading():
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    assert why_not_loaded(caught.value) == ""
