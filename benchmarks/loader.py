"""How fast rows are made and planned, and what they waste, beside what one would use instead.

    python benchmarks/loader.py --token_store data/quickstart-tokens --corpus data/quickstart

Four measurements, all in CPU seconds of one process with one tokenizer thread, each the median of
`repeats` with the smallest and largest:

1. tokens per second of a loader process: our rows (fim_rate 0 and .5), against tokenizing and
   concat-and-chunk as transformers' run_clm.py does (its `group_texts`, through datasets.map);
2. padding of our rows, and what share of documents concat-and-chunk cuts that would have fit;
3. planning: seconds for one million documents (lengths drawn log-normal with the median of 622
   tokens and the 90th percentile of 5,307 measured on package sources), against trl's best-fit
   packing (`pack_dataset`, strategy bfd) of the same lengths;
4. resuming: milliseconds to find the first and the last row of an epoch that is planned.
"""

import argparse
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

import fim
from hugcoder.data import corpus as corpora
from hugcoder.data import row_statistics, token_store
from hugcoder.data.codec import Codec
from hugcoder.data.epochs import RowSettings
from hugcoder.data.rows import PADDING, PackedRows
from hugcoder.data.token_store import TokenStore
from hugcoder.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--token_store", default="data/quickstart-tokens")
    parser.add_argument("--corpus", default="data/quickstart")
    parser.add_argument("--row_length", type=int, default=2048)
    parser.add_argument("--num_rows", type=int, default=400)
    parser.add_argument("--num_documents", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = Codec(Path(args.token_store) / "tokenizer")
    store = TokenStore(args.token_store, corpora.TRAIN)
    measure_loading(args, store, codec)
    measure_planning(args, codec)


def timed(action: Callable[[], float], repeats: int) -> str:
    """`action` returns a rate or a duration; the text gives median (smallest to largest)."""
    values = sorted(action() for _ in range(repeats))
    return f"{statistics.median(values):,.3g} ({values[0]:,.3g} to {values[-1]:,.3g})"


def measure_loading(args: argparse.Namespace, store: TokenStore, codec: Codec) -> None:
    for rate in (0.0, 0.5):
        rows = PackedRows(store, codec, RowSettings(args.row_length, 0, fim.FimSettings(rate), {}))
        num_rows = min(args.num_rows, len(rows))
        padding = sum(int((rows[i]["kinds"] == PADDING).sum()) for i in range(num_rows))

        def rows_per_second(rows=rows, num_rows=num_rows) -> float:
            began = time.process_time()
            for index in range(num_rows):
                rows[index]
            return num_rows * args.row_length / (time.process_time() - began)

        speed = timed(rows_per_second, args.repeats)
        share = padding / (num_rows * args.row_length)
        print(f"rows, fim_rate {rate}: {speed} tokens/CPU-s, {share:.2%} padding")
    speed = timed(lambda: concat_and_chunk(args, codec), args.repeats)
    print(f"run_clm.py, tokenize + concat-and-chunk, no FIM: {speed} tokens/CPU-s, no padding")
    lengths = store.lengths
    starts = np.concatenate([[0], np.cumsum(lengths + 1)])[:-1]
    fits = lengths < args.row_length
    is_cut = (starts // args.row_length) != ((starts + lengths) // args.row_length)
    share = is_cut[fits].mean()
    print(f"concat-and-chunk cuts {share:.1%} of the documents that would fit; rows: none")


def concat_and_chunk(args: argparse.Namespace, codec: Codec) -> float:
    """Tokens per CPU-second of the pipeline of transformers' examples/pytorch/run_clm.py."""
    from datasets import Dataset, disable_caching, disable_progress_bars
    from transformers import PreTrainedTokenizerFast

    disable_caching()
    disable_progress_bars()
    shard = corpora.shards(Path(args.corpus), corpora.TRAIN)[0]
    texts = [
        row["content"] for row in itertools.islice(corpora.read_rows(shard, ("content",)), 400)
    ]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(codec.folder / "tokenizer.json"))
    length = args.row_length

    def group(examples):
        joined = [token for ids in examples["input_ids"] for token in ids]
        total = len(joined) // length * length
        chunks = [joined[i : i + length] for i in range(0, total, length)]
        return {"input_ids": chunks, "labels": chunks}

    began = time.process_time()
    data = Dataset.from_dict({"text": texts})
    data = data.map(
        lambda batch: {"input_ids": tokenizer(batch["text"])["input_ids"]},
        batched=True,
        remove_columns=["text"],
    )
    data = data.map(group, batched=True)
    return len(data) * length / (time.process_time() - began)


def measure_planning(args: argparse.Namespace, codec: Codec) -> None:
    sigma = math.log(5307 / 622) / 1.2816
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(math.log(622), sigma, args.num_documents)).astype(np.int64)
    lengths = np.clip(lengths, 8, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        store = synthetic_store(Path(folder), lengths, codec)
        settings = RowSettings(args.row_length, 0, fim.FimSettings(0.5), {})

        def plan() -> float:
            began = time.process_time()
            PackedRows(store, codec, settings)
            return time.process_time() - began

        print(f"plan of {len(lengths):,} documents: {timed(plan, args.repeats)} CPU-s")
        rows = PackedRows(store, codec, settings)
        print(row_statistics.summary(rows))

        def find(index: int) -> float:
            began = time.perf_counter()
            rows.epochs.locate(index)
            return 1000 * (time.perf_counter() - began)

        print(
            f"finding the first row: {find(0):.2f} ms; the last one: {find(len(rows) - 1):.2f} ms"
        )
    print(f"trl bfd packing of the same lengths: {timed(lambda: trl_pack(args, lengths), 1)} CPU-s")


def synthetic_store(folder: Path, lengths: np.ndarray, codec: Codec) -> TokenStore:
    """A store with the given document lengths, line ends every 16 tokens, and no tokens on disk."""
    import pyarrow
    import pyarrow.parquet

    (folder / corpora.TRAIN).mkdir()
    prefix = folder / corpora.TRAIN / "00000"
    names = np.full(len(lengths), "x")
    uids = np.random.default_rng(1).integers(0, 2**63, len(lengths)).astype(np.uint64)
    columns = {"uid": uids, "num_tokens": lengths, "num_bytes": lengths * 3}
    columns |= dict.fromkeys(("source", "repo", "path", "language"), names)
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, token_store.shard_file(prefix, "documents.parquet"))
    blocks = int((-(-lengths // token_store.LINE_BLOCK)).sum())
    np.full(blocks, token_store.LINE_BLOCK, np.uint8).tofile(
        token_store.shard_file(prefix, "lines.bin")
    )
    with token_store.shard_file(prefix, "tokens.bin").open("wb") as file:
        file.truncate(int(lengths.sum()) * 2)
    tokens = int(lengths.sum())
    counts = {"documents": len(lengths), "tokens": tokens, "bytes": 3 * tokens}
    splits = {corpora.TRAIN: {"shards": ["00000"], **counts}}
    splits[corpora.HELD_OUT] = {"shards": []} | dict.fromkeys(counts, 0)
    manifest = {
        "kind": "token_store",
        "format": token_store.FORMAT,
        "dtype": "uint16",
        "splits": splits,
        **dict.fromkeys(("tokenizer_sha256", "corpus_fingerprint"), "made up"),
    }
    write_json(folder / "manifest.json", manifest)
    return TokenStore(folder, corpora.TRAIN)


def trl_pack(args: argparse.Namespace, lengths: np.ndarray) -> float:
    """CPU seconds of trl's packing of the same lengths (cut to the row length, as it does)."""
    import pyarrow
    from datasets import Dataset
    from trl import pack_dataset

    clipped = np.minimum(lengths, args.row_length)
    offsets = np.concatenate([[0], np.cumsum(clipped)])
    ids = pyarrow.LargeListArray.from_arrays(
        offsets, pyarrow.array(np.zeros(offsets[-1], np.uint16))
    )
    data = Dataset(pyarrow.table({"input_ids": ids})).with_format("arrow")
    began = time.process_time()
    packed = pack_dataset(
        data, seq_length=args.row_length, strategy="bfd", map_kwargs={"batch_size": 100_000}
    )
    seconds = time.process_time() - began
    waste = 1 - clipped.sum() / (len(packed) * args.row_length)
    cut = 1 - clipped.sum() / lengths.sum()
    print(f"trl: {len(packed):,} rows, {waste:.2%} padding, {cut:.1%} of tokens cut off")
    return seconds


if __name__ == "__main__":
    main()
