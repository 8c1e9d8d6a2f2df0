"""Datasets of the Hugging Face hub, streamed with `datasets`; nothing is stored but what is kept.

A chunk is one of the dataset's shards. Give a revision of a dataset that may change: only then is
it sure that a run that was cut off goes on with the same rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from data_prep.document import RawFile
from data_prep.table_rows import RowReader, as_items, row_reader
from hugcoder.refusal import NO_ACCESS, NO_ROOM, Refusal

WAY_OUT = (
    "check its name, config and split, your access and the network, then run the same command to "
    "go on"
)
WAYS_OUT = (  # words of an error, and what helps then
    (
        "scripts are no longer supported",
        "a loading script is not run: give revision=refs/convert/parquet if the hub has converted "
        "it, or download its data files and use type=parquet or type=jsonl",
    ),
    (
        "OfflineModeIsEnabled",
        "HF_HUB_OFFLINE is set: unset it, or give the folder of a copy as dataset, or use "
        "type=parquet or type=jsonl",
    ),
    (
        "cast",
        "its files differ in columns or types: give them as sources of their own with "
        "type=parquet or type=jsonl, which read each file as it is",
    ),
)


def list_hub(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Chunks of a dataset: its shards, or its first max_rows rows.

    Raises: Refusal when it cannot be reached, does not exist or lacks a column.
    """
    max_rows = options.get("max_rows", 0)
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
    """Turn whatever `datasets` and the libraries below it raise into one sentence: they read files
    of any format, over any network, and do not say what they raise.
    """
    try:
        yield
    except (Refusal, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM | NO_ACCESS:
            raise
        said = " ".join(str(error).split())[:300] or type(error).__name__
        way_out = next((text for words, text in WAYS_OUT if words in said), WAY_OUT)
        raise Refusal(f"sources: the dataset {name} cannot be read ({said}); {way_out}.") from None
