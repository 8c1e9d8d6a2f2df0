"""Scores without a neural network: compressors beside bits per byte, trivial answers beside
infilling.

A model's score means little without them: gzip finds a file's own repetitions, and an empty answer
already matches a few per cent of held-out spans.
"""

import gzip
import lzma

from evaluation.spans import BenchmarkSpan
from evaluation.training_split import TrainingSplit
from hugcoder.generation.loading import CheckpointCodec


def gzip_bits(data: bytes) -> int:
    """Bits of one file compressed alone by gzip -9."""
    return 8 * len(gzip.compress(data, compresslevel=9, mtime=0))


def xz_bits(data: bytes) -> int:
    """Bits of one file compressed alone by xz -9e."""
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def copy_previous_line(prefix: str) -> str:
    """The last line above the cursor's that is not blank, without its indentation: a hole of whole
    lines begins behind its own.
    """
    for line in reversed(prefix.split("\n")[:-1]):
        if line.strip():
            return line.strip()
    return ""


def completions(
    spans: list[BenchmarkSpan], codec: CheckpointCodec, training: TrainingSplit, max_new_tokens: int
) -> dict[str, list[str]]:
    """By floor, its answer to each hole: nothing, the line above, the n-gram model's."""
    fill = training.ngram.fill
    return {
        "empty": ["" for _ in spans],
        "copy_previous_line": [copy_previous_line(span.prefix) for span in spans],
        "ngram": [fill(codec, span.prefix, span.suffix, max_new_tokens) for span in spans],
    }
