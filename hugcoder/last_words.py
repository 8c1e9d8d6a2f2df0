"""Says once what ended a program, for all ranks of a launch and through their launcher.

torchrun, and accelerate which uses it, give each rank a file for its last error and show the files
at the end of their output. A rank writes its sentence there. It also writes it on the terminal,
unless another rank of this machine has said the same, or scripts/launch.py will say it at the end.
Without a launcher the sentence is a line on the terminal.
"""

import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

BY_LAUNCHER = "HUGCODER_LAUNCHER_SPEAKS"  # set by a launcher that prints its ranks' sentences
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torch's name: <folder of this launch>/<local rank>/...


def say(sentence: str) -> None:
    """Say a sentence that ends the program, on standard error."""
    if not (ERROR_FILE in os.environ and _is_left_to_others(sentence)):
        with suppress(OSError):  # nobody reads it; the exit code remains
            sys.stderr.write(f"{sentence}\n")
            sys.stderr.flush()


def _is_left_to_others(sentence: str) -> bool:
    """Write a sentence for the launcher; tell whether it or another rank prints it."""
    path, is_spoken_for = Path(os.environ[ERROR_FILE]), BY_LAUNCHER in os.environ
    mark = hashlib.sha256(sentence.encode()).hexdigest()[:16]
    try:
        if not is_spoken_for:
            (path.parent.parent / f"said-{mark}").touch(exist_ok=False)
        _write_for_launcher(path, sentence)
    except FileExistsError:
        return True
    except OSError:  # such as a full disk; saying it twice is better than not at all
        return False
    return is_spoken_for


def _write_for_launcher(path: Path, sentence: str) -> None:
    """Write the sentence in the form that torch.distributed.elastic reads."""
    when = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
    error = {"message": {"message": sentence, "extraInfo": when}}
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(error), encoding="utf-8")
    partial.replace(path)
