"""Writes run.json: what a run was made of, so that its folder explains itself.

It holds arguments, versions, commit and launch command of this start, and a short entry for each
earlier start. `hugcoder.run.identity` compares what must stay the same on resuming.
"""

import dataclasses
import functools
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

from hugcoder.files import read_object, write_json

PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "tokenizers", "datasets", "numpy")
KEPT_STARTS = 100
SAYS_WHERE = {"resume_from_checkpoint", "allow_changes", "local_rank", "run_name", "logging_dir"}
SECRET_ENDING = ("_token", "-token", "_key", "_secret")


def write_run_record(
    run: Path,
    groups: Iterable[Any],
    identity: dict[str, Any],
    facts: dict[str, Any],
    resumed_from: Path | None,
) -> dict[str, tuple[Any, Any]]:
    """Write run.json: this start, and one short entry for each start in `starts`.

    Args: groups: the dataclasses of arguments. facts: measured at start, such as parameter counts.
    Returns: the arguments that differ from the previous start, as name -> (then, now).
    """
    path = run / "run.json"
    before = read_object(path) if path.is_file() else {}
    arguments = {type(group).__name__: _plain(group) for group in groups}
    changed = _changed(before.get("arguments", {}), arguments) if resumed_from else {}
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": launch_command(),
        "resumed_from": resumed_from.name if resumed_from else "",
        "changed": changed,
    }
    record = {
        "started": start["time"],
        "command": start["command"],
        "arguments": arguments,
        "identity": identity,
        **facts,
        "commit": _commit(),
        "versions": versions(),
        "host": {"cpus": os.cpu_count(), "machine": platform.machine()},
        "starts": [*before.get("starts", []), start][-KEPT_STARTS:],
    }
    write_json(path, record)
    return changed


def _changed(then: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Find arguments of all groups that differ, except those about places and names."""
    before = {name: value for group in then.values() for name, value in group.items()}
    after = {name: value for group in now.values() for name, value in group.items()}
    names = sorted((set(before) | set(after)) - SAYS_WHERE)
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def launch_command() -> str:
    """Return the command that started this program, without secrets."""
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
    """Return argument values as JSON, without secrets and empty values."""
    values = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    plain = json.loads(
        json.dumps(values, default=lambda value: getattr(value, "value", str(value)))
    )
    secret = {name for name in plain if name.endswith(SECRET_ENDING)}
    return {k: v for k, v in plain.items() if k not in secret and v not in (None, "")}


def _commit() -> str:
    """Return the code's commit, with `+` if files differ from it; "" outside a git work tree."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[2])]
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True)
    try:
        head = run([*git, "rev-parse", "HEAD"]).stdout.strip()
        changes = run([*git, "status", "--porcelain"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head[:12] + ("+" if changes else "")
