"""Lists how model families spell fill-in-the-middle, and finds the family of a tokenizer.

Spellings are from each family's model card. A family with another order sets `psm` and `spm`, see
`fim.FimFormat`.
"""

from collections.abc import Mapping

import fim

STARCODER = fim.FimFormat(
    "starcoder",
    "<fim_prefix>",
    "<fim_suffix>",
    "<fim_middle>",
    "<|endoftext|>",
    "<fim_pad>",
    "<repo_name>",
    "<file_sep>",
)
QWEN = fim.FimFormat(
    "qwen",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|endoftext|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    stops=("<|im_end|>",),
)
DEEPSEEK = fim.FimFormat(
    "deepseek",
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
    "<｜end▁of▁sentence｜>",
)
CODEGEMMA = fim.FimFormat(
    "codegemma",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|file_separator|>",
    stops=("<eos>",),
)
CODELLAMA = fim.FimFormat("codellama", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>", stops=("</s>",))
SANTACODER = fim.FimFormat(
    "santacoder", "<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<|endoftext|>", "<fim-pad>"
)
FORMATS = (
    STARCODER,
    QWEN,
    CODEGEMMA,
    DEEPSEEK,
    CODELLAMA,
    SANTACODER,
)
_ROLES = ("prefix", "suffix", "middle", "pad", "repo_name", "file_separator")
SENTINELS = frozenset(getattr(known, role) for known in FORMATS for role in _ROLES) - {""}


def find_ids(
    token_to_id: Mapping[str, int], formats: tuple[fim.FimFormat, ...] = FORMATS
) -> fim.FimIds:
    """Find the family whose sentinels a vocabulary has.

    Raises: ValueError when it has none; training must then stop, and never go on without FIM.
    """
    for known in formats:
        letters = {
            letter: name
            for letter, name in zip("psm", (known.prefix, known.suffix, known.middle), strict=True)
            if letter in known.psm
        }
        if all(name in token_to_id for name in (*letters.values(), known.end)):
            stop_names = {
                known.end,
                known.pad,
                known.repo_name,
                known.file_separator,
                *known.stops,
            }
            stops = frozenset(token_to_id[name] for name in stop_names if name in token_to_id)
            sentinels = {letter: token_to_id[name] for letter, name in letters.items()}
            return fim.FimIds(known, sentinels, token_to_id[known.end], stops)
    names = ", ".join(
        f"{known.name} ({known.prefix} {known.suffix} {known.middle})" for known in formats
    )
    raise ValueError(
        "the tokenizer lacks the fill-in-the-middle tokens of every known family; known are "
        f"{names}. Train one with `python -m tokenizer`, or take a model that was trained to fill "
        "in."
    )
