"""Tells whether a name can be a hub model and whether the hub has it, within seconds.

A local path with a typing mistake looks like a hub name, and without a network the libraries retry
for a minute. Holds no download; `hugcoder.model.pretrained` and `hugcoder.data.tokenizer_files` do
that.
"""

import difflib
import os
import re
from pathlib import Path

from hugcoder.refusal import Refusal, reason_of

PATIENCE_SECONDS = 5.0
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def can_be_hub_name(name: str) -> bool:
    """Tell whether a name that is not a folder may be a hub model, rather than a mistyped path."""
    first = name.partition("/")[0]
    return bool(HUB_NAME.fullmatch(name)) and first != "runs" and not Path(first).exists()


def did_you_mean(name: str) -> str:
    """Ask for the most similar path to one that does not exist; "" when none is similar."""
    near = "" if Path(name).exists() else _nearest_path(name)
    return f" Did you mean {near}?" if near else ""


def _nearest_path(name: str) -> str:
    path = Path(name.rstrip("/"))
    parent = path.parent if path.parent.is_dir() else Path(_nearest_path(str(path.parent)) or "-")
    if not parent.is_dir() or not os.access(parent, os.R_OK | os.X_OK):
        return ""
    names = sorted(child.name for child in parent.iterdir() if not child.name.startswith("."))
    close = [path.name] if path.name in names else difflib.get_close_matches(path.name, names, n=1)
    return str(parent / close[0]) if close else ""


def check_hub_has(name: str) -> None:
    """Ask the hub whether it has a model, unless the cache has it.

    Raises: Refusal, within seconds, when the hub lacks it or cannot be reached.
    """
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers, get_session

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    unreachable = f"there is no folder {name}, no copy of a hub model {name} in the cache, and"
    give = f"give a folder, or download the model where there is a network.{did_you_mean(name)}"
    if constants.is_offline_mode():
        raise Refusal(f"{unreachable} HF_HUB_OFFLINE forbids asking the hub; {give}")
    url = hf_hub_url(name, "config.json")
    try:
        answer = get_session().head(url, headers=build_hf_headers(), timeout=PATIENCE_SECONDS)
    except Exception as error:  # httpx's and the hub's own, without a common class
        raise Refusal(
            f"{unreachable} the hub cannot be reached ({reason_of(error)}); {give}"
        ) from None
    if answer.status_code in (401, 403, 404):
        raise Refusal(
            f"there is no folder {name}, and the hub gives no model {name} (it says "
            f"{answer.status_code}); check the name, or log in with `hf auth login` if its owner "
            f"restricts access.{did_you_mean(name)}"
        )
