"""Says what ended a program: once for all ranks of a launch, and through their launcher.

torchrun, and accelerate over it, give each rank a file for the error that ends it and show what is
there behind everything else. A rank writes its sentence there, and on the terminal only where no
other rank of this machine has said the same; scripts/launch.py says it for them, last. Without a
launcher it is a line on the terminal.
"""

import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

BY_LAUNCHER = "HUGCODER_LAUNCHER_SPEAKS"  # set by a launcher that says the sentences of its ranks
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torch's name: <folder of this launch>/<local rank>/...


def say(sentence: str) -> None:
    """Say a sentence that ends the program, on standard error."""
    if not (ERROR_FILE in os.environ and _is_left_to_others(sentence)):
        with suppress(OSError):  # nobody hears; the exit code says it
            sys.stderr.write(f"{sentence}\n")
            sys.stderr.flush()


def _is_left_to_others(sentence: str) -> bool:
    """Leave a sentence to the launcher; whether it will say it, or another rank has said it."""
    path, is_spoken_for = Path(os.environ[ERROR_FILE]), BY_LAUNCHER in os.environ
    mark = hashlib.sha256(sentence.encode()).hexdigest()[:16]
    try:
        if not is_spoken_for:
            (path.parent.parent / f"said-{mark}").touch(exist_ok=False)
        _write_for_launcher(path, sentence)
    except FileExistsError:
        return True
    except OSError:  # as on a full disk: rather twice than not at all
        return False
    return is_spoken_for


def _write_for_launcher(path: Path, sentence: str) -> None:
    """In the form that torch.distributed.elastic reads."""
    when = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
    error = {"message": {"message": sentence, "extraInfo": when}}
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(error), encoding="utf-8")
    partial.replace(path)
