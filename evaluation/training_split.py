"""What can be known of held-out holes from the training split alone: its lines and its n-grams."""

import logging
from dataclasses import dataclass
from pathlib import Path

from evaluation.documents import hash_order
from evaluation.ngram import NgramModel
from hugcoder.data.corpus import TRAIN, read_corpus
from hugcoder.generation.loading import CheckpointCodec

logger = logging.getLogger(__name__)

SHORTEST_LINE = 10  # characters without blanks around them; shorter lines are everywhere
_BATCH = 256


@dataclass(frozen=True)
class TrainingSplit:
    """What was read of the training split.

    share: of its bytes. lines: stripped ones of SHORTEST_LINE characters or more, as hashes.
    """

    share: float
    ngram: NgramModel
    lines: frozenset[int]

    def is_new(self, text: str) -> bool:
        """Whether a text is long enough to matter and no line of what was read."""
        return len(text.strip()) >= SHORTEST_LINE and hash(text.strip()) not in self.lines


def read_training_split(
    corpus: Path, codec: CheckpointCodec, max_bytes: int, seed: int
) -> TrainingSplit:
    """Read about `max_bytes` of the training split, all of it if it has no more.

    Files are chosen one by one, by a hash, so that every repository gives its share.
    """
    total = sum(row["size"] for row in read_corpus(corpus, TRAIN, ("size",)))
    share = min(1.0, max_bytes / total) if total else 1.0
    texts = [
        row["content"]
        for row in read_corpus(corpus, TRAIN, ("content", "blob_sha"))
        if hash_order(seed, row["blob_sha"])[0] < 256 * share
    ]
    lines = {
        hash(stripped)
        for text in texts
        for line in text.split("\n")
        if len(stripped := line.strip()) >= SHORTEST_LINE
    }
    batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
    documents = (ids for batch in batches for ids in codec.encode(batch))
    ngram = NgramModel(documents, codec.vocab_size, codec.fim_ids.end)
    logger.info(f"read {100 * share:.0f} % of the training split for the n-gram floor")
    return TrainingSplit(share, ngram, frozenset(lines))
