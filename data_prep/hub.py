"""Datasets of the Hugging Face hub, streamed with `datasets`; nothing is stored but what is kept.

A chunk is one of the dataset's shards. A dataset that may change should be given with a revision:
only then does a run that is taken up again surely go on with the same rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from data_prep.document import RawFile
from data_prep.rows import RowReader, as_items, row_reader
from hugcoder.refusal import Refusal


def list_hub(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Chunks of a dataset: its shards, or its first max_rows rows.

    Raises: Refusal when it cannot be reached, does not exist or lacks a column.
    """
    max_rows = _max_rows(options)
    with _refusing(options["dataset"]):
        dataset = _load(options)
        first = next(iter(dataset.take(1)), None)
    if first is None:
        raise Refusal(f"sources: the dataset {options['dataset']} has no rows in this split.")
    reader = as_items(row_reader(first, options, options["dataset"]))
    call = {name: options.get(name) for name in ("dataset", "config", "split", "revision")}
    shared = {"call": call, "reader": reader, "max_rows": max_rows}
    num_shards = 1 if max_rows else dataset.num_shards
    for shard in range(num_shards):
        yield shared | {"shard": shard, "num_shards": num_shards}


def read_hub(items: dict[str, Any]) -> Iterator[RawFile]:
    """The rows of one shard, in order."""
    reader = RowReader(**items["reader"])
    with _refusing(items["call"]["dataset"]):
        dataset = _load(items["call"])
        if items["max_rows"]:
            dataset = dataset.take(items["max_rows"])
        else:
            dataset = dataset.shard(items["num_shards"], items["shard"])
        for index, row in enumerate(dataset):
            yield reader.raw_file(row, f"{items['shard']}/{index}")


def _max_rows(options: dict[str, Any]) -> int:
    given = str(options.get("max_rows", 0))
    if not given.isdigit():
        raise Refusal(f"sources: max_rows is {given!r}; give a number of rows, 0 for all.")
    return int(given)


def _load(options: dict[str, Any]) -> Any:
    import datasets

    return datasets.load_dataset(
        options["dataset"],
        options.get("config"),
        split=options.get("split") or "train",
        revision=options.get("revision"),
        streaming=True,
    )


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn what `datasets` raises for a wrong name, split or network into one sentence."""
    try:
        yield
    except Refusal:
        raise
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise Refusal(
            f"sources: the dataset {name} cannot be read ({said}); check its name, config and "
            "split, your access and the network, then run the same command to go on."
        ) from None
