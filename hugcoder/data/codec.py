"""Turns text into token ids and back for one tokenizer folder, without torch or transformers.

This is the only place that encodes source text: special tokens are disabled, so a literal
`<|endoftext|>` in a file stays plain text. It also reads from a vocabulary's bytes which ids end a
line or continue a code point, and how long they are.
"""

import functools
import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

import fim
from hugcoder.data.fim_formats import SENTINELS, find_ids
from hugcoder.file_table import FileTable, missing_or_resized
from hugcoder.files import MANIFEST, keys_demanded, read_manifest
from hugcoder.refusal import Refusal, reason_of


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's alphabet of byte-level BPE: printable character -> byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


class Codec:
    """Wraps a byte-level BPE tokenizer with what HugCoder needs to know about its vocabulary.

    Args:
        folder: holds `tokenizer.json`.
        spm_variant: of the model that the tokenizer serves (`fim.SPM_ORDERS`); 0 = its family's.
    Raises: Refusal when the file is missing or broken. When bytes are first asked for, also when it
    is not byte-level, because text would not come back byte for byte.
    """

    def __init__(self, folder: str | Path, spm_variant: int = 0):
        self.folder, self.spm_variant = Path(folder), spm_variant
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            way_out = "train one with `python -m tokenizer`"
            if (self.folder / "config.json").is_file():
                way_out = "this is a model folder: copy the model's own tokenizer into it"
            raise Refusal(f"there is no tokenizer in {self.folder} (no tokenizer.json); {way_out}.")
        data = path.read_bytes()  # not by tokenizers, whose errors have no errno and no path
        try:
            self._tokenizer = Tokenizer.from_buffer(data)
        except Exception as error:  # tokenizers raises nothing more precise
            raise Refusal(
                f"{path} is not a tokenizer ({reason_of(error)}); copy it again, or train one with "
                "`python -m tokenizer`."
            ) from None
        self._mark_sentinels_special()
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.special_ids = {
            t.content: i for i, t in self._tokenizer.get_added_tokens_decoder().items() if t.special
        }
        self.fingerprint = hashlib.sha256(data).hexdigest()
        _check_files(self.folder, self.fingerprint)

    def _mark_sentinels_special(self) -> None:
        """Make sentinels special; Qwen2.5-Coder and CodeGemma ship them as ordinary tokens."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        sentinels = [token.content for token in added if token.content in SENTINELS]
        self._tokenizer.add_special_tokens(
            [AddedToken(name, special=True, normalized=False) for name in sentinels]
        )

    def __reduce__(self):
        return type(self), (
            str(self.folder),
            self.spm_variant,
        )  # a data loader worker reads its own copy

    @cached_property
    def vocab_size(self) -> int:
        """Count the ids, gaps included."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Encode each text; special tokens in it stay plain text, and none are added."""
        return [
            encoding.ids
            for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids; special tokens and a vocabulary's padding have none."""
        table = self.token_bytes
        return b"".join([table[index] for index in ids if index < len(table)])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are not valid UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Return the bytes of each id; empty for special tokens. Raises: Refusal, see the class."""
        alphabet = _byte_of_character()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        table = [b""] * (max(vocabulary.values()) + 1)
        added = self._tokenizer.get_added_tokens_decoder()
        for token, index in vocabulary.items():
            if index in added:
                table[index] = b"" if added[index].special else added[index].content.encode()
            elif any(character not in alphabet for character in token):
                raise Refusal(
                    f"the tokenizer in {self.folder} is not byte-level BPE (its token {token!r} "
                    "does not stand for bytes); train one with `python -m tokenizer`."
                )
            else:
                table[index] = bytes([alphabet[character] for character in token])
        return table

    @cached_property
    def num_bytes(self) -> np.ndarray:
        """Count the bytes of each id [vocab]; 0 for special tokens."""
        return np.array([len(token) for token in self.token_bytes], dtype=np.int32)

    @cached_property
    def ends_line(self) -> np.ndarray:
        """Tell for each id [vocab] whether it ends with a newline, or with one and indentation."""
        return np.array([t.rstrip(b" \t").endswith(b"\n") for t in self.token_bytes])

    @cached_property
    def continues_character(self) -> np.ndarray:
        """Tell for each id [vocab] whether its first byte lies inside a UTF-8 code point."""
        return np.array([bool(token) and 0x80 <= token[0] < 0xC0 for token in self.token_bytes])

    @cached_property
    def fim_ids(self) -> fim.FimIds:
        """Find the fill-in-the-middle ids.

        Raises: Refusal when the vocabulary lacks the sentinels of every known family.
        """
        try:
            found = find_ids(self.special_ids)
        except ValueError as error:
            raise Refusal(f"{self.folder}: {error}") from None
        return found.with_spm_variant(self.spm_variant) if self.spm_variant else found

    @cached_property
    def end_of_text(self) -> int:
        """Return the id that ends a document; it also ends a middle."""
        return self.fim_ids.end

    @cached_property
    def pad(self) -> int:
        """Return the id that fills the rest of a row; its labels are always -100."""
        return self.special_ids.get(self.fim_ids.format.pad, self.end_of_text)


def _check_files(folder: Path, fingerprint: str) -> None:
    """Compare a folder of `python -m tokenizer` with its manifest; other folders have none.

    Raises: Refusal naming the file that is missing, cut or changed.
    """
    manifest = read_manifest(folder) or {}
    if manifest.get("kind") != KIND:
        return
    with keys_demanded(folder):
        found = missing_or_resized(folder, files_of(manifest))
    if not found and manifest.get("tokenizer_sha256") != fingerprint:
        found = "tokenizer.json has changed since it was written (its SHA-256 differs)"
    if found:
        raise Refusal(damage_sentence(folder, found))


def files_of(manifest: dict[str, Any]) -> FileTable:
    """List the files of a tokenizer folder; for an old one only the hash of tokenizer.json."""
    old = {"tokenizer.json": {"sha256": manifest.get("tokenizer_sha256", "")}}
    return manifest.get("files", old)


def damage_sentence(folder: Path, what: str) -> str:
    """Return the sentence that refuses a damaged folder."""
    return (
        f"the tokenizer {folder} is not what its {MANIFEST} says: {what}; copy the folder again, "
        "or delete it and train it again."
    )


KIND = "tokenizer"  # the kind in a manifest of `python -m tokenizer`
