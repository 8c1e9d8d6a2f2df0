"""How a program ends: a refusal is one sentence and its exit code, whatever was raised."""

import errno
import os
import sys

import processes
import pytest
from safetensors import SafetensorError

from hugcoder.refusal import Refusal, entry_point


def ending(error: BaseException) -> int | str | None:
    """The exit code of a program whose main() raises `error`."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        entry_point(main)()
    return ended.value.code


def test_a_refusal_ends_in_one_sentence_and_code_2(capsys):
    assert ending(Refusal("rate 2 is too high; give 1.")) == 2
    shown = capsys.readouterr()
    assert shown.err.endswith(": error: rate 2 is too high; give 1.\n")
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_closed_disk_ends_in_one_sentence_with_the_file(capsys, code):
    assert ending(OSError(code, os.strerror(code), "/runs/model.bin")) == 2
    shown = capsys.readouterr().err
    assert os.strerror(code) in shown
    assert "(/runs/model.bin)" in shown


def test_an_interrupted_program_ends_as_a_shell_expects():
    assert ending(KeyboardInterrupt()) == 130


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "gone", "/runs/a"), "No such file or directory (/runs/a)"),
        (IsADirectoryError(errno.EISDIR, "", "/runs/a"), "Is a directory (/runs/a): check"),
        (OSError(errno.ENOSPC, "", "/in", None, "/out"), "No space left on device (/out): make"),
        (OSError(errno.EMFILE, "", "/runs/a"), "raise the limit of open files"),
        (OSError(errno.EIO, "", "/runs/a"), "the disk or its connection fails"),
        (Exception("No space left on device (os error 28)"), "No space left on device: make room"),
        (SafetensorError("I/O error: (os error 27)"), "File too large: make room"),
        (MemoryError("Unable to allocate 80 GiB"), "memory ran out (Unable to allocate 80 GiB)"),
        (RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "memory ran out"),
        (Refusal("no model in a\nb\x1b[31m\udce9; give another."), r"a b\x1b[31m\udce9; give"),
    ],
)
def test_what_the_machine_refuses_ends_in_one_sentence(capsys, error, words):
    assert ending(error) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


PRINTING = """
import sys
from hugcoder.refusal import Refusal, entry_point
def main():
    if sys.argv[1:]:
        raise Refusal("no.")
    print("caf\u00e9" * 9)
entry_point(main)()
"""


@pytest.mark.parametrize(
    ("where", "code", "shown"),
    [
        ("> /dev/full", 2, "make room, then run the same command to go on.\n"),
        ("refused > /dev/full", 2, "error: no.\n"),
        (">&-", 0, ""),
        ("refused >&-", 2, "error: no.\n"),
        ("refused 2>&-", 2, ""),
        ("refused 2> /dev/full", 2, ""),
        ("<&- > /dev/null", 0, ""),
        ("| true; exit ${PIPESTATUS[0]}", 141, ""),
    ],
)
def test_output_that_goes_nowhere_ends_quietly_or_in_one_sentence(tmp_path, where, code, shown):
    (tmp_path / "program.py").write_text(PRINTING, encoding="utf-8")
    command = f'"{sys.executable}" "{tmp_path}/program.py" {where}'
    ended = processes.run(["bash", "-c", command], 60, env=os.environ | {"PYTHONPATH": "."})
    assert ended.returncode == code
    assert ended.stderr.endswith(shown)
    assert ended.stderr.count("\n") == bool(shown)


def test_an_ascii_terminal_gets_escapes(tmp_path):
    (tmp_path / "program.py").write_text(PRINTING, encoding="utf-8")
    env = os.environ | {"PYTHONPATH": ".", "PYTHONIOENCODING": "ascii"}
    ended = processes.run([sys.executable, f"{tmp_path}/program.py"], 60, env=env)
    assert (ended.returncode, ended.stdout) == (0, r"caf\xe9" * 9 + "\n")


OURS = [
    FileNotFoundError(errno.ENOENT, "x"),
    ValueError("ours"),
    RuntimeError("ours"),
    RecursionError("ours"),
    Exception("ours (os error soon)"),
]


@pytest.mark.parametrize("error", OURS)
def test_our_own_mistakes_keep_their_traceback(error):
    def main() -> None:
        raise error

    with pytest.raises(type(error)):
        entry_point(main)()
