"""Shows a setting's value as the user wrote it, and checks it against a choice."""

from enum import Enum
from typing import TYPE_CHECKING, Any

from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import TrainingArguments


def plain_value(value: Any) -> Any:
    """Return a value as the user wrote it."""
    if isinstance(value, list):
        return " ".join(str(plain_value(item)) for item in value)
    return value.value if isinstance(value, Enum) else value


def check_choice(
    arguments: "TrainingArguments", name: str, allowed: tuple[str, ...], more: str = ""
) -> None:
    value = plain_value(getattr(arguments, name))
    if value not in (None, *allowed):
        raise Refusal(
            f"{name} {value} is not possible here; give one of {', '.join(allowed)}{more}."
        )
