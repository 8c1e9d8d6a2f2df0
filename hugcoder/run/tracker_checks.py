"""Checks the trackers of --report_to before the data is read.

transformers makes the trackers when the model is built, and a tracker looks for its key when the
training begins. This file refuses a tracker that is not installed, has no key or is switched off,
and says what to install or to change.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hugcoder.engines.launched import ON
from hugcoder.refusal import NO_ACCESS, NO_ROOM, Refusal, reason_of

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments

NOTHING_LOST = "or leave it out (metrics.jsonl is always written)"
# tracker -> its module, and its pip package if that has another name
MODULES = {
    "azure_ml": ("azureml", "azureml-core"),
    "clearml": ("clearml", ""),
    "codecarbon": ("codecarbon", ""),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", ""),
    "dvclive": ("dvclive", ""),
    "flyte": ("flytekit", ""),
    "kubeflow": ("kubeflow", ""),
    "mlflow": ("mlflow", ""),
    "neptune": ("neptune", ""),
    "swanlab": ("swanlab", ""),
    "tensorboard": ("tensorboard", ""),
    "trackio": ("trackio", ""),
    "wandb": ("wandb", ""),
}


def trackers_of(arguments: "TrainingArguments") -> list[str]:
    """List the names in report_to: one word, several, or words with commas; `none` = no names."""
    given = arguments.report_to
    words = [given] if isinstance(given, str) else list(given or [])
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    names = list(dict.fromkeys(names))
    for alone in {"none", "all"}.intersection(names):
        if len(names) > 1:
            raise Refusal(
                f"report_to {' '.join(names)}: {alone} cannot be combined with other names; give "
                "it alone or leave it out."
            )
    return [] if names == ["none"] else names


def check_trackers(arguments: "TrainingArguments") -> None:
    """Turn report_to into a list of trackers. Raises: Refusal when one cannot be used."""
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    names = trackers_of(arguments)
    arguments.report_to = names or ["none"]
    if not names:
        return
    available = get_available_reporting_integrations()
    if names == ["all"]:
        names = available
    unknown = [name for name in names if name not in INTEGRATION_TO_CALLBACK]
    if unknown:
        known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
        raise Refusal(
            f"report_to names {unknown[0]}, which is not a tracker; give none, all or some of "
            f"{known}."
        )
    for name in names:
        if name not in available:
            raise Refusal(f"report_to names {name}, {_why_not(name)}, {NOTHING_LOST}.")
    if "wandb" in names:
        _check_wandb()


def _why_not(name: str) -> str:
    module, package = MODULES.get(name, (name, ""))
    if importlib.util.find_spec(module) is None:
        return f"which is not installed; install it with `pip install {package or module}`"
    return (
        "which is installed, but says that it cannot be used: too old, without its key, or "
        "switched off; set it up as its own documentation says"
    )


def _check_wandb() -> None:
    """Check wandb's key now; it would ask for one when training begins, where nobody answers."""
    import wandb
    from pydantic import ValidationError
    from wandb.sdk.lib.wbauth import authenticate_session

    if os.environ.get("WANDB_DISABLED", "").lower() in ON:
        raise Refusal(
            "report_to names wandb, but WANDB_DISABLED is set; unset it (WANDB_MODE=offline works "
            "without a network), or take wandb out of --report_to."
        )
    settings = wandb.Settings()
    folder = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    try:
        settings.settings_system = str(folder / "settings")
        settings.update_from_system_settings()  # what `wandb offline` has written
        settings.update_from_env_vars(dict(os.environ))
        if settings.mode in ("offline", "dryrun", "disabled"):
            return
        key = authenticate_session(
            host=settings.base_url, source="report_to", prompt=False, update_session=False
        )
    except (ValidationError, wandb.errors.Error) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {}
        reason = (
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else reason_of(error)
        )
        raise Refusal(f"report_to names wandb, whose settings are wrong ({reason}).") from None
    if not key and not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise Refusal(
            "report_to names wandb, which has no key here; run `wandb login`, or set "
            f"WANDB_API_KEY, or WANDB_MODE=offline to write to this disk, {NOTHING_LOST}."
        )


def refuse_when_trackers_fail(callbacks: "Iterable[TrainerCallback]") -> None:
    """Let a tracker that cannot begin (no network, a wrong key) end the run in one sentence."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    names = {kind: name for name, kind in INTEGRATION_TO_CALLBACK.items()}
    for callback in callbacks:
        if name := names.get(type(callback)):
            callback.on_train_begin = _refusing_errors(callback.on_train_begin, name)


def _refusing_errors(begin: Callable[..., Any], name: str) -> Callable[..., Any]:
    def begun(*args: Any, **kwargs: Any) -> Any:
        try:
            return begin(*args, **kwargs)
        except OSError as error:
            if error.errno in NO_ROOM | NO_ACCESS:  # errors of the disk have their own sentence
                raise
            raise Refusal(_cannot_begin(name, error)) from error
        except Exception as error:  # every tracker has error classes of its own
            raise Refusal(_cannot_begin(name, error)) from error

    return begun


def _cannot_begin(name: str, error: Exception) -> str:
    reason = reason_of(error)
    return f"report_to names {name}, which cannot begin ({reason}); repair it, {NOTHING_LOST}."
