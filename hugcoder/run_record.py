"""run.json: what a run was made of, so that its folder explains itself.

Holds the collecting of arguments, versions, commit, hashes and launch command, and the identity:
the few facts that must be the same for resuming to give the losses of the unbroken run.
"""

import dataclasses
import functools
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from hugcoder.files import write_json

PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "tokenizers", "datasets", "numpy")
SECRET_ENDING = ("_token", "-token", "_key", "_secret")


def run_identity(
    store_manifest: dict[str, Any], model_config: dict[str, Any], **settings: Any
) -> dict[str, Any]:
    """Facts that decide the rows and the weights. settings: row_length, seed, FIM rates and the
    like."""
    ignored = {"transformers_version", "_name_or_path", "use_cache", "dtype"}
    shape = {name: value for name, value in model_config.items() if name not in ignored}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()
    return {
        "tokenizer": store_manifest["tokenizer_sha256"][:16],
        "corpus": store_manifest["corpus_fingerprint"][:16],
        "model": digest[:16],
        **json.loads(json.dumps(settings)),
    }


def write_run_record(
    run: Path, groups: Iterable[Any], identity: dict[str, Any], facts: dict[str, Any]
) -> None:
    """Write run.json.

    Args: groups: the dataclasses of arguments. facts: measured at start, such as parameter counts.
    """
    write_json(
        run / "run.json",
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": launch_command(),
            "arguments": {type(group).__name__: _plain(group) for group in groups},
            "identity": identity,
            **facts,
            "commit": _commit(),
            "versions": versions(),
            "host": {"cpus": os.cpu_count(), "machine": platform.machine()},
        },
    )


def launch_command() -> str:
    """The words this program was started with, without secrets."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    for index, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name.startswith("--") and name.endswith(SECRET_ENDING):
            words[index] = f"{name}=***" if equals else name
            if not equals and index + 1 < len(words):
                words[index + 1] = "***"
    return shlex.join(words)


def versions() -> dict[str, str]:
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **installed}


def _plain(group: Any) -> dict[str, Any]:
    """Argument values as JSON, without secrets and empty ones."""
    values = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    plain = json.loads(
        json.dumps(values, default=lambda value: getattr(value, "value", str(value)))
    )
    secret = {name for name in plain if name.endswith(SECRET_ENDING)}
    return {k: v for k, v in plain.items() if k not in secret and v not in (None, "")}


def _commit() -> str:
    """The commit of the code with `+` when files differ from it; empty outside a git work tree."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[1])]
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True)
    try:
        head = run([*git, "rev-parse", "HEAD"]).stdout.strip()
        changes = run([*git, "status", "--porcelain"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head[:12] + ("+" if changes else "")
