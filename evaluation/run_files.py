"""What a run has left on disk: its record, its metrics, its evaluation, and the data it came from.

Reads only; what is not there is None, so that the report can say which command makes it. Holds no
HTML.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.results import FOLDER, HELDOUT, file_name, find_results
from hugcoder.data import corpus, token_store
from hugcoder.data.training_data import TrainingData, corpora_of_record, joined, training_data
from hugcoder.files import MANIFEST, keys_demanded, read_object
from hugcoder.model import manifest
from hugcoder.refusal import Refusal
from hugcoder.run import checkpoint

RECORD, METRICS, MEASURED = "run.json", "metrics.jsonl", "measure.json"
HELDOUT_PARTS = ("bits_per_byte", "middle_bits_per_byte", "infilling")
ACCOUNTS = ("splits", "languages", "licenses", "repositories", "held_out_repositories")


@dataclass(frozen=True)
class RunFiles:
    """A run folder and what it points to.

    Args:
        metrics: the lines of metrics.jsonl in order.
        corpus_path: where the corpus should be; empty when nothing says it.
        heldout: the results of `python -m evaluation heldout`.
        other_results: those of every other measurement.
        store, tokenizer: manifest of the token store and measure.json of its tokenizer.
    """

    folder: Path
    record: dict[str, Any]
    metrics: list[dict[str, Any]]
    model_config: dict[str, Any] | None
    heldout: dict[str, Any] | None
    other_results: list[dict[str, Any]]
    store: dict[str, Any] | None
    corpus_path: str
    corpus: dict[str, Any] | None
    tokenizer: dict[str, Any] | None

    @property
    def model_folder(self) -> Path:
        return self.folder / checkpoint.FINAL_MODEL

    @property
    def is_finished(self) -> bool:
        return self.model_config is not None

    def argument(self, name: str, default: Any = None) -> Any:
        """A setting of the run; groups share no names."""
        groups = self.record["arguments"].values()
        return next((group[name] for group in groups if name in group), default)

    @property
    def scored_in_training(self) -> TrainingData:
        """What the model was trained on, against the rows that the training loop scores."""
        corpus_name = self.record["identity"]["corpus"]
        by = corpus.held_out_by(self.corpus or {})
        return training_data(corpora_of_record(self.record, corpus_name), corpus_name, by)

    @property
    def scored_in_heldout(self) -> TrainingData:
        """What the model was trained on, as run and results say, against the files scored."""
        told = self.heldout.get("training_data", {})
        own = list(self.scored_in_training.corpora)
        fingerprint = self.heldout["settings"].get("corpus_fingerprint", "")
        by = self.heldout["settings"].get("held_out_by", corpus.REPOSITORY)
        return training_data(joined(told.get("corpora", []), own), fingerprint, by)

    def series(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of every finite value that was logged under a name."""
        found = [(line["step"], line[name]) for line in self.metrics if name in line]
        return [(step, value) for step, value in found if math.isfinite(value)]

    def last(self, name: str) -> float | None:
        """The last value logged under a name; None when there is none."""
        values = self.series(name)
        return values[-1][1] if values else None

    @property
    def num_steps(self) -> int:
        return max((line["step"] for line in self.metrics), default=0)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows so far, padding included."""
        return self.num_steps * self.record["tokens_per_step"]

    @property
    def training_seconds(self) -> float:
        """Seconds spent in training steps, over all sessions: tokens over the logged speed.

        Evaluation and saving are not in it; steps since the last log line are not either.
        """
        seconds, before = 0.0, 0.0
        for step, rate in self.series("train/tokens_per_second"):
            seconds += (step - before) * self.record["tokens_per_step"] / rate
            before = step
        return seconds


def read_run(folder: Path, corpus_path: str = "") -> RunFiles:
    """Read a run folder.

    Args: corpus_path: the corpus, when it is no longer where the token store says.
    Raises: Refusal when `folder` is no run, or a file in it is damaged or of another kind.
    """
    record = _read_json(folder / RECORD)
    if record is None:
        is_inside = (folder.parent / RECORD).is_file()
        hint = f"give {folder.parent}" if is_inside else "give the --output_dir of a train.py run"
        raise Refusal(f"{folder} is no run folder (there is no {RECORD} in it); {hint}.")
    with keys_demanded(folder, RECORD):
        store_folder = Path(record["arguments"]["DataArguments"]["token_store"])
        record["identity"]["corpus"], record["tokens_per_step"] + 0
    is_at_hand = (store_folder / MANIFEST).is_file()
    store = token_store.manifest_of(store_folder) if is_at_hand else None
    named_corpus = corpus_path or (store or {}).get("corpus", "")
    is_complete = manifest.is_complete(folder / checkpoint.FINAL_MODEL)
    results = find_results(folder / FOLDER)
    heldout = results.pop(HELDOUT, None)
    with keys_demanded(folder / FOLDER, file_name(HELDOUT)):
        for name in HELDOUT_PARTS if heldout else ():
            heldout[name]
    return RunFiles(
        folder=folder,
        record=record,
        metrics=_read_metrics(folder / METRICS),
        model_config=_read_json(folder / "model" / "config.json") if is_complete else None,
        heldout=heldout,
        other_results=list(results.values()),
        store=store,
        corpus_path=named_corpus,
        corpus=_read_corpus(named_corpus, is_required=bool(corpus_path)),
        tokenizer=_read_measured(store_folder, store),
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    return read_object(path) if path.is_file() else None


def _read_measured(folder: Path, store: dict[str, Any] | None) -> dict[str, Any] | None:
    """What was measured of the copy of the tokenizer in the store, or of the one it was made with.

    The latter may be another one by now.
    """
    copied = _read_json(folder / token_store.TOKENIZER / MEASURED)
    if copied is not None or not (store or {}).get("tokenizer"):
        return copied
    found = _read_json(Path(store["tokenizer"]) / MEASURED)
    is_same = found is not None and found.get("tokenizer_sha256") == store["tokenizer_sha256"]
    return found if is_same else None


def _read_corpus(path: str, *, is_required: bool) -> dict[str, Any] | None:
    """The corpus's manifest. Raises: Refusal when the user named a folder that is no corpus."""
    if not path:
        return None
    if not is_required and not (Path(path) / MANIFEST).is_file():
        return None
    manifest = corpus.manifest_of(Path(path))
    with keys_demanded(Path(path)):
        for name in ACCOUNTS if "counts" in manifest else ():
            manifest[name]
        if corpus.held_out_by(manifest) != corpus.REPOSITORY:
            manifest["held_out_units"]
    return manifest


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged lines; a last line without its end is still being written and is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    lines = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            lines.append(_numbers(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise Refusal(f"{path} line {number} is damaged ({error}); remove that line.") from None
    return lines


def _numbers(logged: Any) -> dict[str, Any]:
    """A line of metrics. Raises: ValueError when it is none."""
    is_line = isinstance(logged, dict) and isinstance(logged.get("step"), int)
    if not is_line or not all(isinstance(value, int | float) for value in logged.values()):
        raise ValueError("it is no object of numbers with a step")
    return logged
