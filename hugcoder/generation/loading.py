"""Loads a model and its tokenizer by name: a run folder, a model folder or a hub name.

Works for our own models and for the families in `hugcoder.data.fim_formats`.
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hugcoder.data.codec import Codec
from hugcoder.data.healing import Healing
from hugcoder.data.tokenizer_files import hub_tokenizer
from hugcoder.hardware import check_device
from hugcoder.hub import can_be_hub_name, check_hub_has, did_you_mean
from hugcoder.model.manifest import last_complete
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CheckpointCodec(Codec):
    """Is the Codec of any checkpoint, also with vocabularies that are not byte-level.

    Those are Code Llama's and CodeGemma's. Also knows the ids that a family puts before each text.
    """

    # A SentencePiece vocabulary puts a space before a text and drops it when decoding. After this
    # character, which merges with nothing, a text keeps its own first bytes.
    ANCHOR = "\u263a"

    @cached_property
    def is_byte_level(self) -> bool:
        """Tell whether each id stands for bytes, so that texts need no anchor."""
        try:
            return bool(self.token_bytes)
        except Refusal:
            return False

    @cached_property
    def start_ids(self) -> list[int]:
        """Return the ids before every text and prompt; none for HugCoder's own models."""
        return [i for i in self._tokenizer.encode("").ids if i not in self.fim_ids.stops]

    @cached_property
    def healing(self) -> Healing:
        return Healing(self)

    @cached_property
    def _anchor_ids(self) -> list[int]:
        return [] if self.is_byte_level else super().encode([self.ANCHOR])[0]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Encode each text as if it stood inside a longer one."""
        if self.is_byte_level:
            return super().encode(texts)
        return [
            ids[len(self._anchor_ids) :]
            for ids in super().encode([self.ANCHOR + text for text in texts])
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids without special tokens; the inverse of `encode`."""
        if self.is_byte_level:
            return super().decode(ids)
        text = self._tokenizer.decode([*self._anchor_ids, *ids], skip_special_tokens=True)
        return text[text.index(self.ANCHOR) + len(self.ANCHOR) :]

    def decode_after(self, ids: Iterable[int], num_left_out: int) -> str:
        """Return the text of ids without its first bytes, which the prompt has already."""
        if not num_left_out:
            return self.decode(ids)
        return self.decode_bytes(ids)[num_left_out:].decode("utf-8", errors="replace")


def find_checkpoint(name: str) -> Path | None:
    """Find the local folder that `name` means; None when it can only be a hub name.

    Takes a folder with a config.json, or a run folder with one in its `model/`.
    Raises: Refusal when the name is not a hub name and no model is there.
    """
    folder = Path(name)
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    if folder.is_dir() and (newest := last_complete(folder)):
        raise Refusal(
            f"{folder} is a run that has not ended, so it has no model/ yet; give its newest "
            f"checkpoint: {newest}."
        )
    if not can_be_hub_name(name):
        raise Refusal(
            f"there is no model at {name}: neither {folder / 'config.json'} nor "
            f"{folder / 'model' / 'config.json'} exists. Give a run folder, its model/ folder or a "
            "hub name such as bigcode/starcoder2-3b." + did_you_mean(name)
        )
    return None


def load_checkpoint(
    name: str, device: str | None = None, dtype: str | None = None, spm_variant: int = 0
) -> tuple["PreTrainedModel", CheckpointCodec]:
    """Load a model in evaluation mode with the codec of its tokenizer.

    Args:
        name: a run folder, a model folder or a hub name.
        device: a torch device; None takes the accelerator if there is one.
        dtype: name of a torch dtype; None means float32 on the CPU and bfloat16 elsewhere.
        spm_variant: see `fim.SPM_ORDERS`; 0 = as the model's config.json says, else its family's.

    Raises: Refusal when there is no model, or its vocabulary has no fill-in-the-middle tokens.
    """
    from hugcoder.model.config import spm_variant_of
    from hugcoder.model.pretrained import load_causal_lm

    folder = find_checkpoint(name)
    if folder is None:
        check_hub_has(name)
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = str(accelerator or "cpu")
    check_device(device)
    dtype = dtype or ("float32" if torch.device(device).type == "cpu" else "bfloat16")
    model = load_causal_lm(str(folder or name), getattr(torch, dtype))
    codec = CheckpointCodec(
        folder or hub_tokenizer(name), spm_variant or spm_variant_of(str(folder or name))
    )
    _check_vocabulary(name, model, codec)
    return model.to(device).eval(), codec


def _check_vocabulary(name: str, model: "PreTrainedModel", codec: CheckpointCodec) -> None:
    """Refuse a folder whose tokenizer belongs to another model."""
    rows = model.get_input_embeddings().num_embeddings
    highest = max(codec.fim_ids.stops.union(codec.fim_ids.sentinels.values()))
    if highest >= rows or (codec.is_byte_level and len(codec.token_bytes) > rows):
        raise Refusal(
            f"the tokenizer of {name} has ids up to {max(highest, codec.vocab_size - 1)} but the "
            f"model has embeddings for {rows}; they do not belong together: copy the model's own."
        )
