"""Trackers of --report_to: which there are and whether they can be used, before the data is read.

transformers makes the trackers when the model is built, and a tracker looks for its key when the
training begins. Here what is not installed, has no key or contradicts its own switch is refused
with what to install or to change.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hugcoder.engines.launched import ON
from hugcoder.refusal import NO_ACCESS, NO_ROOM, Refusal, told

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments

NOTHING_LOST = "or leave it out (metrics.jsonl is always written)"
# tracker -> the module it is, and what pip calls it where that is another name
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
    """The names in report_to: a word, several, or words with commas; `none` alone is no tracker."""
    given = arguments.report_to
    words = [given] if isinstance(given, str) else list(given or [])
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    names = list(dict.fromkeys(names))
    for alone in {"none", "all"}.intersection(names):
        if len(names) > 1:
            raise Refusal(f"report_to {' '.join(names)}: {alone} stands alone or not at all.")
    return [] if names == ["none"] else names


def check_trackers(arguments: "TrainingArguments") -> None:
    """Settle report_to as a list of trackers. Raises: Refusal where one cannot be used."""
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
            f"report_to names {unknown[0]}, which is no tracker; give none, all or some of {known}."
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
    """wandb would ask for a key when the training begins, and fail where nobody answers."""
    import wandb
    from pydantic import ValidationError
    from wandb.sdk.lib.wbauth import authenticate_session

    if os.environ.get("WANDB_DISABLED", "").lower() in ON:
        raise Refusal(
            "report_to names wandb and WANDB_DISABLED is set, which contradict each other; unset "
            "it (WANDB_MODE=offline works without a network), or take wandb out of --report_to."
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
        said = error.errors()[0] if isinstance(error, ValidationError) else {}
        reason = f"{'.'.join(map(str, said['loc']))}: {said['msg']}" if said else told(error)
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
            callback.on_train_begin = _told_of(callback.on_train_begin, name)


def _told_of(begin: Callable[..., Any], name: str) -> Callable[..., Any]:
    def begun(*args: Any, **kwargs: Any) -> Any:
        try:
            return begin(*args, **kwargs)
        except OSError as error:
            if error.errno in NO_ROOM | NO_ACCESS:  # the disk's, with a sentence of their own
                raise
            raise Refusal(_cannot_begin(name, error)) from error
        except Exception as error:  # every tracker has classes of its own
            raise Refusal(_cannot_begin(name, error)) from error

    return begun


def _cannot_begin(name: str, error: Exception) -> str:
    return f"report_to names {name}, which cannot begin ({told(error)}); repair it, {NOTHING_LOST}."
