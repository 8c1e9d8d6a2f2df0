"""Says in one sentence which packages are not installed or cannot be loaded.

They are often not installed because the virtual environment is not active. Imports none of them.
"""

import os
import sys
import sysconfig
import traceback
from importlib.util import find_spec
from pathlib import Path

from hugcoder import last_words

NEEDED = ("accelerate", "datasets", "numpy", "pyarrow", "tokenizers", "torch", "transformers")
NEEDED += ("yaml",)


def check_installed() -> None:
    """End the program with exit code 2 when a package or the working folder is missing."""
    try:
        os.getcwd()
    except FileNotFoundError:
        last_words.say("error: the working folder has been removed: go to another (cd).")
        raise SystemExit(2) from None
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        last_words.say(
            f"error: {sys.executable} has no {', '.join(missing)}: run `source "
            ".venv/bin/activate`, or `bash scripts/setup.sh` first where there is no .venv."
        )
        raise SystemExit(2)


def why_not_loaded(error: Exception) -> str:
    """Return a sentence for an error that a package raised during its import, "" for any other.

    torch raises one when TORCH_LOGS names a log that it does not know.
    """
    packages = Path(sysconfig.get_paths()["purelib"])
    package = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.is_relative_to(packages):
            is_importing = frame.name == "<module>"
            package = path.relative_to(packages).parts[0] if is_importing else package
        elif "importlib" not in path.parts:  # importlib's frames lie between two imports
            package = ""
    if not package:
        return ""
    named = sorted(name for name in os.environ if package.upper() in name)
    named = [name for name in named if os.environ[name] in str(error)] or named
    what = f"correct or unset {', '.join(named)}" if named else "run `bash scripts/setup.sh`"
    said = " ".join(str(error).split())[:200]
    return f"{package} cannot be loaded ({type(error).__name__}: {said}): {what}."
