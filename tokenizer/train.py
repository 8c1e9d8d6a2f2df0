"""Trains byte-level BPE on a balanced sample and saves it as a folder.

There is no normalizer and no prefix space, so every UTF-8 file comes back byte for byte. Ids 0 to
63 are the special tokens in the order of hugcoder.data.special_tokens, then come the 256 bytes,
then the merges. Holds no check of the result (check.py).
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from hugcoder.data.fim_formats import STARCODER
from hugcoder.data.special_tokens import END_OF_TEXT, SPECIAL_TOKENS
from hugcoder.data.tokenizer_files import TRAINED
from hugcoder.files import atomic, file_sha256, write_json
from hugcoder.refusal import Refusal
from tokenizer.sample import SamplePlan, read_sample

# Merges stay inside one match of the regex. All split every digit, so that a number has one
# spelling. standard: Qwen's regex, that of cl100k with one digit; llama.cpp can encode with it
# (pre-tokenizer "qwen2"). compact: punctuation is joined with the newlines and the indentation that
# follow it, as in `:\n        `. lines: newlines and the indentation that follows are a token by
# themselves, so that a line's text begins and ends between tokens.
_START = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"
PATTERNS = {
    "standard": _START + r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "compact": _START + r"(?:\r?\n[ \t]*)*|[ \t]*(?:\r?\n[ \t]*)+|\s+(?!\S)|\s+",
    "lines": _START + r"|[ \t]*(?:\r?\n[ \t]*)+|\s+(?!\S)|\s+",
}

# The trainer walks through a whole match for each merge in it: 5 MB of endless matches took
# minutes. So it learns from pieces of at most this many characters; hardly any code has longer
# matches. The finished tokenizer has the unbounded pattern.
MAX_MATCH = 128

FILES = (*TRAINED, "measure.json")  # what a tokenizer folder holds besides its manifest

# The trainer of tokenizers counts pairs in 32 bits and wraps without an error
# (huggingface/tokenizers 2058). There are at most as many pairs as bytes, so fewer bytes than this
# cannot wrap.
MAX_SAMPLE_BYTES = 2**31 - 1
MIN_PAIR_COUNT = 2  # a pair seen once is not a pattern
BATCH_DOCUMENTS = 256


def train(plan: SamplePlan, vocab_size: int, pattern: str) -> tuple[Tokenizer, dict[str, dict]]:
    """Train on the documents of `plan`.

    Returns: the tokenizer, and what it saw: language -> documents and bytes.
    Raises: Refusal when the sample is too large for the trainer's counters or too small for the
    vocabulary.
    """
    if plan.total_bytes > MAX_SAMPLE_BYTES:
        raise Refusal(
            f"the sample has {plan.total_bytes:,} bytes, but the trainer counts pairs in 32 bits; "
            f"give sample_bytes well below {MAX_SAMPLE_BYTES:,}."
        )
    tokenizer = untrained(bounded(PATTERNS[pattern]))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PAIR_COUNT,
        special_tokens=[
            AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
        # max_token_length stays unset: with it the trainer's counts can fall below zero
        # (huggingface/tokenizers 2320), and long runs of one character are worth a token in code.
    )
    documents: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    tokenizer.train_from_iterator(_counted_batches(plan, documents, num_bytes), trainer)
    tokenizer.pre_tokenizer = pre_tokenizer(PATTERNS[pattern])
    reached = tokenizer.get_vocab_size(with_added_tokens=True)
    if reached != vocab_size:
        raise Refusal(
            f"{plan.total_bytes:,} bytes of sample give {reached:,} tokens, not vocab_size "
            f"{vocab_size:,}; give vocab_size {reached} or less, a larger corpus, or more "
            "sample_bytes."
        )
    seen = {
        language: {"documents": documents[language], "bytes": num_bytes[language]}
        for language in sorted(documents)
    }
    return tokenizer, seen


def untrained(regex: str) -> Tokenizer:
    """Make a byte-level BPE tokenizer without merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(regex)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def pre_tokenizer(regex: str) -> pre_tokenizers.PreTokenizer:
    """Make a pre-tokenizer that splits a text into the matches of a pattern, as bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def bounded(regex: str) -> str:
    """Cut matches that are longer than MAX_MATCH characters into pieces; keep all others."""
    return regex.replace("+", f"{{1,{MAX_MATCH}}}").replace("*", f"{{0,{MAX_MATCH}}}")


def _counted_batches(
    plan: SamplePlan, documents: Counter[str], num_bytes: Counter[str]
) -> Iterator[list[str]]:
    batch: list[str] = []
    for language, text in read_sample(plan):
        documents[language] += 1
        num_bytes[language] += len(text.encode("utf-8"))
        batch.append(text)
        if len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch = []
    yield batch


def save(tokenizer: Tokenizer, folder: Path) -> str:
    """Write the files that transformers loads; the folder is complete only with a manifest.

    The class must be PreTrainedTokenizerFast: GPT2Tokenizer and Qwen2Tokenizer replace the
    pre-tokenizer without a warning, and transformers 4 refuses TokenizersBackend and a list under
    extra_special_tokens. split_special_tokens keeps its default (false): in chat templates and
    prompts, special tokens must become ids. hugcoder.data.codec encodes source text, and there
    special tokens stay text.

    Returns: sha256 of tokenizer.json.
    """
    with atomic(folder / "tokenizer.json") as temporary:
        # not by tokenizer.save(): its disk errors have no class of their own and name no file
        temporary.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    named = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": STARCODER.pad}
    additional = [token for token in SPECIAL_TOKENS if token not in named.values()]
    special = named | {"additional_special_tokens": additional}
    write_json(folder / "special_tokens_map.json", special)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,  # the model's context decides, not the tokenizer
    }
    write_json(folder / "tokenizer_config.json", config)
    return file_sha256(folder / "tokenizer.json")
