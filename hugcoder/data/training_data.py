"""Tells which corpora a model's weights have seen, and whether files are really held out.

A corpus is named by the first characters of its fingerprint, as in a run's identity. Its held-out
files are known to be unseen only if the weights have seen no other corpus: another one may hold the
same file for training. Holds no measuring and loads no torch.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hugcoder.data.corpus import REPOSITORY, plural_of
from hugcoder.files import MANIFEST, keys_demanded, read_manifest, read_object
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

# "Scaling Data-Constrained Language Models" (Muennighoff et al. 2023, arXiv 2305.16264): up to 4
# passes, a repeated token is worth nearly as much as a new one; after about 16, nothing.
GOOD_PASSES = 4
UNKNOWN = "unknown"  # stands for data that no manifest names
NAME_LENGTH = 16  # of a fingerprint, as in a run's identity
RUN_RECORD = "run.json"


def corpora_of(folder: Path | None) -> list[str]:
    """List the corpora that a model or checkpoint has been trained on, in order.

    Args: folder: None, or a folder without our manifest, gives [UNKNOWN].
    """
    manifest = (read_manifest(folder) or {}) if folder else {}
    if "corpora" in manifest:
        return _names_in(manifest, folder / MANIFEST)
    identity = manifest.get("identity")
    if not isinstance(identity, dict) or "corpus" not in identity:
        return [UNKNOWN]
    path = folder.parent / RUN_RECORD  # old manifests do not name the corpora
    with keys_demanded(folder.parent, RUN_RECORD):
        record = read_object(path) if path.is_file() else {}
        return corpora_of_record(record, identity["corpus"])


def corpora_of_record(record: dict[str, Any], corpus: str) -> list[str]:
    """List the corpora of a run that trains on `corpus`, from its run.json.

    Args: record: if it lacks the run's arguments, the run may have continued any model.
    """
    if "corpora" in record:
        return _names_in(record, Path(RUN_RECORD))
    groups = record.get("arguments", {}).values()
    is_continued = not groups or any(group.get("model_name_or_path") for group in groups)
    return [UNKNOWN, corpus] if is_continued else [corpus]


def _names_in(content: dict[str, Any], file: Path) -> list[str]:
    names = content["corpora"]
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise Refusal(
            f"{file} is damaged (its corpora are {names!r}, not a list of names); copy the folder "
            "again, or make it again."
        )
    return list(names)


def corpora_of_run(base: str, resume_from: Path | None, corpus: str) -> list[str]:
    """List the corpora that weights have seen after a run on `corpus`.

    Args:
        base: the model that the run continues; empty = random weights.
        resume_from: its checkpoint, which may have seen another corpus before an allowed change.
    """
    before = corpora_of(Path(base)) if base else []
    before += corpora_of(resume_from) if resume_from else []
    return joined(before, [corpus])


def tell_of_passes(num_steps: int, steps_a_pass: float) -> None:
    """Warn of a run that passes over its corpus more often than is useful."""
    passes = num_steps / steps_a_pass
    if passes > GOOD_PASSES:
        logger.warning(
            "the run passes %.3g times over its corpus: after %s passes a token teaches less each "
            "time (Muennighoff et al. 2023), and the model learns files by heart. Give "
            "--num_train_epochs %s, which is %s steps in place of %s, or a larger corpus",
            passes,
            GOOD_PASSES,
            GOOD_PASSES,
            f"{max(1, int(GOOD_PASSES * steps_a_pass)):,}",
            f"{num_steps:,}",
        )


def joined(*corpora: list[str]) -> list[str]:
    """Join several lists, each name once, in order."""
    return list(dict.fromkeys(name for names in corpora for name in names))


@dataclass(frozen=True)
class TrainingData:
    """Compares what a model was trained on with the files that it is scored on.

    Args: corpora: see corpora_of. corpus: that of the scored files; "" = not known. held_out_by:
    what that corpus holds out as a whole.
    """

    corpora: tuple[str, ...]
    corpus: str
    held_out_by: str = REPOSITORY

    @property
    def is_known_held_out(self) -> bool:
        """Tell whether it is certain that the held-out files were not trained on."""
        return bool(self.corpus) and self.corpora == (self.corpus,)

    @property
    def sentence(self) -> str:
        """Say what is known, without a full stop."""
        if self.is_known_held_out:
            return (
                f"the model was trained on the corpus {self.corpus} and never on its held-out "
                f"{plural_of(self.held_out_by)}, of which these files are"
            )
        known = [name for name in self.corpora if name != UNKNOWN]
        trained_on = f"the {'corpus' if len(known) == 1 else 'corpora'} {' and '.join(known)}"
        if known and UNKNOWN in self.corpora:
            trained_on += " and on data that nothing names"
        if not known:
            trained_on = "data that nothing names"
        corpus = f"the corpus {self.corpus}" if self.corpus else "an unnamed one"
        doubt = "it is not known whether it was trained on them"
        return f"the model was trained on {trained_on}, and these files are of {corpus}: {doubt}"

    def as_json(self) -> dict[str, Any]:
        return {
            "corpora": list(self.corpora),
            "evaluated_corpus": self.corpus,
            "is_known_held_out": self.is_known_held_out,
            "sentence": self.sentence,
        }


def training_data(corpora: list[str], fingerprint: str, by: str = REPOSITORY) -> TrainingData:
    """Args: fingerprint: of the corpus whose files are scored, whole or its first characters."""
    return TrainingData(tuple(corpora), fingerprint[:NAME_LENGTH], by)
