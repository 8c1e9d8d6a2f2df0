"""Reloads a saved tokenizer as other programs will, and compares its ids with the trained ones.

Why: under a wrong tokenizer_class transformers replaces the pre-tokenizer without a warning
(huggingface/transformers 45920), and a model trained on one segmentation is then used on another.
transformers 5 does so even under the right class, and adds a normalizer, when the folder holds a
config.json of model type qwen2; llama and qwen3 are not affected.
Compares three readers (tokenizers, hugcoder.data.codec, transformers) on hostile texts, and the
bytes that come back. Holds no statistics of compression (measure.py).
"""

from pathlib import Path

from tokenizers import Tokenizer

from hugcoder.data.codec import Codec
from hugcoder.data.special_tokens import SPECIAL_TOKENS
from hugcoder.refusal import Refusal

_INDENTED = (
    "def f(x):\n    if x != 0 :\n\treturn x ,y\n        \n\n\n    # it's done , isn't it ?\n"
)
PROBES: tuple[str, ...] = (
    "",
    " ",
    "\n",
    _INDENTED,
    _INDENTED.replace("\n", "\r\n"),
    "old mac\rline ends\r",
    "trailing space \n  \t mixed\t\tindent\v\f",
    "NUL \0 and BOM \ufeff, both ends \ufeff",
    " " * 500 + "x" + "\t" * 70 + "=" * 80 + "\n" * 9,
    "x = 3.14159 + 0xDEADBEEF - 1_000_000 * 1e-9  # \u0663\u0664 \u00bd",
    "snake_case camelCase SCREAMING_CASE kebab-case __dunder__ a.b.c()[0]",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \ud55c\uad6d\uc5b4",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 flag \U0001f1e9\U0001f1ea",
    "combining e\u0301 and composed \u00e9, ligature \ufb01, full width \uff21",
    "separators \u2028 \u2029 \u0085 \u00a0 private \ue000 replacement \ufffd",
    "sentencepiece's space \u2581 and byte-level's \u0120",
    "".join(SPECIAL_TOKENS),
    f"a literal {SPECIAL_TOKENS[0]} in a file, and <fim_middle>",
)


def check_folder(folder: Path, trained: Tokenizer) -> None:
    """Compare a saved tokenizer with the one that was trained.

    Raises: Refusal when a reader gives other ids, special tokens have other ids, or bytes are lost.
    """
    codec = Codec(folder)
    expected_special = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    if codec.special_ids != expected_special:
        raise Refusal(f"{folder}: the special tokens do not have the ids 0 to 63 in their order.")
    trained.encode_special_tokens = True
    expected = [encoding.ids for encoding in trained.encode_batch(list(PROBES))]
    readers = {
        "tokenizers": _ids_from_tokenizers(folder),
        "hugcoder.data.codec": codec.encode(list(PROBES)),
        "transformers": _ids_from_transformers(folder),
    }
    for reader, ids in readers.items():
        _compare(folder, reader, ids, expected)
    for text, ids in zip(PROBES, expected, strict=True):
        if codec.decode_bytes(ids) != text.encode("utf-8"):
            raise Refusal(f"{folder}: {text[:40]!r} does not come back byte for byte.")


def _compare(folder: Path, reader: str, ids: list[list[int]], expected: list[list[int]]) -> None:
    for text, got, wanted in zip(PROBES, ids, expected, strict=True):
        if got != wanted:
            raise Refusal(
                f"{folder} read by {reader} splits {text[:40]!r} into {len(got)} ids that are not "
                f"the {len(wanted)} it was trained with; tokenizer_class in tokenizer_config.json "
                f"must be PreTrainedTokenizerFast."
            )


def _ids_from_tokenizers(folder: Path) -> list[list[int]]:
    reloaded = Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
    reloaded.encode_special_tokens = True
    return [encoding.ids for encoding in reloaded.encode_batch(list(PROBES))]


def _ids_from_transformers(folder: Path) -> list[list[int]]:
    from transformers import AutoTokenizer  # loads torch where torch is installed

    reloaded = AutoTokenizer.from_pretrained(folder)
    return [
        reloaded(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for text in PROBES
    ]
