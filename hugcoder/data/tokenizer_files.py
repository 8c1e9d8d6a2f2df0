"""Copies the files of a tokenizer into stores, checkpoints, model folders and exports.

A model that is continued keeps its chat template and the names of its special tokens, because other
programs look for them. Only `tokenizer.json` decides the ids.
"""

import shutil
from pathlib import Path

from hugcoder.refusal import Refusal, reason_of

TOKENIZER = "tokenizer.json"
TRAINED = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")  # written by tokenizer/
FILES = (
    *TRAINED,
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
TEMPLATES = "additional_chat_templates"  # a folder of more chat templates, NAME.jinja


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer's files as they are.

    transformers 5 would save it under a class name that transformers 4 and converters refuse.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in files_in(source):
        copied = target / path.relative_to(source)
        copied.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copied)


def files_in(folder: Path) -> list[Path]:
    """List the files of the tokenizer in a folder."""
    named = [folder / name for name in FILES if (folder / name).is_file()]
    return named + sorted((folder / TEMPLATES).glob("*.jinja"))


def hub_tokenizer(name: str) -> Path:
    """Download a hub model's tokenizer with all its files, and return the local folder.

    Raises: Refusal when it has none, or the hub cannot be reached and the cache lacks it.
    """
    from huggingface_hub import snapshot_download
    from transformers.utils import cached_file

    try:
        folder = Path(cached_file(name, TOKENIZER)).parent
        snapshot_download(name, allow_patterns=[*FILES, f"{TEMPLATES}/*.jinja"])
    except OSError as error:
        raise Refusal(f"{name} has no tokenizer: {reason_of(error)}.") from None
    return folder
