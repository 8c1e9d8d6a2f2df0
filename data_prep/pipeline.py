"""From sources to a corpus: collect and filter, deduplicate, split, write, account.

Memory is bounded by the columns of data_prep.table_of_files, whatever the content. The order of the
corpus is the listing order (source, repository, path), so one worker and many write the same bytes.
Intermediate chunks lie in <output_dir>/.work until the manifest is written.
"""

import importlib.metadata
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arguments import CorpusArguments
from data_prep.collect import collect_chunk, fingerprint_with_code
from data_prep.counts import NUM_SAMPLES, Counts
from data_prep.dedup import group_contents, owns_content, winners
from data_prep.filters import RuleSettings
from data_prep.report import account, table_text, warnings_of
from data_prep.shards import plan_shards, write_shard
from data_prep.sources import Chunk, Source, list_chunks, parse_sources
from data_prep.split import (
    MIN_LANGUAGE_SHARE,
    choose_held_out,
    keyed_hash,
    named_held_out,
    num_held_out,
)
from data_prep.table_of_files import FileTable, load_table, names_of_rows
from data_prep.workers import run_tasks
from hugcoder.data.corpus import HELD_OUT, REPOSITORY, SPLITS, TRAIN, check_files, fingerprint_of
from hugcoder.files import MANIFEST, keys_demanded, read_manifest, write_json
from hugcoder.ownership import contents, owned
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

WORK = ".work"
ADDED_SETTINGS = {"held_out": [], "held_out_by": REPOSITORY}  # which the first recipes lack
NOT_IN_RECIPE = ("output_dir", "num_workers")  # they do not change what the corpus holds


def build_corpus(arguments: CorpusArguments) -> dict[str, Any]:
    """Make the corpus of `arguments` and return its manifest; a complete one is not made again.

    Raises: Refusal when the sources, the split or the output folder cannot be used.
    """
    output_dir, recipe = Path(arguments.output_dir), recipe_of(arguments)
    if (complete := read_manifest(output_dir)) is not None:  # perhaps where nobody may write
        return _same_corpus(output_dir, complete, recipe)
    with owned(output_dir):
        if (complete := read_manifest(output_dir)) is not None:  # made since we looked
            return _same_corpus(output_dir, complete, recipe)
        return _make_corpus(arguments, output_dir, recipe)


def _make_corpus(
    arguments: CorpusArguments, output_dir: Path, recipe: dict[str, Any]
) -> dict[str, Any]:
    started = time.monotonic()
    _check_output_dir(output_dir)
    sources = parse_sources(arguments.sources)
    counts, chunks = collect(sources, arguments, output_dir / WORK)
    table = load_table(chunks, arguments.held_out_by)
    if not len(table):
        raise Refusal(_nothing_usable(counts))
    is_held_out, stays = choose(table, arguments, counts, chunks)
    written = write_shards(table, is_held_out, stays, chunks, arguments)
    counts.check()
    manifest = {
        "kind": "corpus",
        "recipe": recipe,
        **account(table, is_held_out, stays, counts, arguments.held_out_by),
        "warnings": warnings_of(table, is_held_out, stays, arguments),
        "shards": written,
        "fingerprint": fingerprint_of(written),
        "versions": {"python": platform.python_version(), **_versions("pyarrow", "numpy")},
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(output_dir / MANIFEST, manifest)
    shutil.rmtree(output_dir / WORK)
    return manifest


def recipe_of(arguments: CorpusArguments) -> dict[str, Any]:
    """The arguments that decide what the corpus holds."""
    recipe = {name: v for name, v in asdict(arguments).items() if name not in NOT_IN_RECIPE}
    recipe["sources"] = [asdict(source) for source in parse_sources(arguments.sources)]
    return recipe


def _same_corpus(
    output_dir: Path, complete: dict[str, Any], recipe: dict[str, Any]
) -> dict[str, Any]:
    """The manifest of a corpus that is there. Raises: Refusal when other arguments made it."""
    if complete.get("kind") != "corpus":
        raise Refusal(
            f"output_dir {output_dir} holds a complete {complete.get('kind')}; give another."
        )
    check_files(output_dir)
    with keys_demanded(output_dir):
        there = ADDED_SETTINGS | complete["recipe"]
        table_text(complete)
    if there == recipe:
        logger.info("%s is complete and of the same recipe; nothing to do", output_dir)
        return complete
    names = [name for name in recipe if there.get(name) != recipe[name]]
    differences = "; ".join(
        f"{name} is {json.dumps(there.get(name))} there and {json.dumps(recipe[name])} here"
        for name in names
    )
    raise Refusal(
        f"{output_dir} holds a corpus made with other settings ({differences}); give another "
        "--output_dir or delete that folder."
    )


def _check_output_dir(output_dir: Path) -> None:
    """Raises: Refusal for a place whose content is not ours to replace."""
    if contents(output_dir) and not (output_dir / WORK).is_dir():
        raise Refusal(
            f"output_dir {output_dir} holds something that is no corpus; give an empty or a new "
            "folder."
        )


def collect(
    sources: list[Source], arguments: CorpusArguments, work: Path
) -> tuple[Counts, list[Path]]:
    """Filter every file of the sources into chunk files; returns the counts and the chunk files."""
    from tqdm import tqdm

    settings = RuleSettings(tuple(sorted(arguments.languages)), arguments.max_file_bytes)
    fingerprint = fingerprint_with_code(settings)
    counts = Counts()
    targets: list[Path] = []

    def tasks() -> Iterator[tuple[Chunk, RuleSettings, Path]]:
        for source in sources:
            for chunk in list_chunks(source, work.parent):
                targets.append(work / f"{len(targets):06d}-{chunk.key(fingerprint)}.parquet")
                yield chunk, settings, targets[-1]

    with tqdm(desc="reading", unit=" files", unit_scale=True, disable=None) as bar:
        for part in run_tasks(collect_chunk, tasks(), arguments.worker_count):
            counts.merge(part)
            bar.update(part.read.files)
    return counts, targets


def choose(
    table: FileTable, arguments: CorpusArguments, counts: Counts, chunks: list[Path]
) -> tuple[np.ndarray, np.ndarray]:
    """Deduplicate, split and thin out.

    Returns: [N] whether each file is held out; [N] whether it stays.
    """
    content = group_contents(table.content)
    meant = named_held_out(arguments.held_out, table.names["unit"], arguments.held_out_by)
    chosen = set().union(*meant.values()) if meant else _chosen(table, content, arguments)
    is_held_out = np.isin(table.unit, np.array(sorted(chosen), dtype=np.int32))
    stays = winners(content, is_held_out)
    in_train = np.zeros(content.max() + 1, dtype=bool)
    in_train[content[~is_held_out]] = True
    leaks = is_held_out & in_train[content]
    for name, positions in meant.items():
        if leaks[np.isin(table.unit, sorted(positions))].all():
            raise Refusal(
                f"held_out names {name!r}, and every file of it is also in what training sees, so "
                "nothing of it would be held out; name the other copies too, or leave it out."
            )
    drop_rows(table, counts, "held_out_but_also_in_train", leaks, chunks)
    drop_rows(table, counts, "duplicate", ~stays & ~leaks, chunks)
    if arguments.max_bytes:
        thinned = stays & ~_within(table, stays, arguments)
        drop_rows(table, counts, "over_max_bytes", thinned, chunks)
        stays &= ~thinned
    return is_held_out, stays


def _chosen(table: FileTable, content: np.ndarray, arguments: CorpusArguments) -> set[int]:
    """Positions of the repositories, folders or files that hash and languages hold out."""
    names, by = table.names["unit"], arguments.held_out_by
    fraction, at_least = arguments.held_out_fraction, arguments.held_out_repositories
    wanted = num_held_out(len(names), fraction, at_least, by)
    owns = owns_content(content, table.unit, len(names))
    sizes = np.bincount(table.language, table.size)
    main = np.flatnonzero(sizes >= MIN_LANGUAGE_SHARE * sizes.sum())
    has, owns_of = (np.zeros((len(names), len(main)), dtype=bool) for _ in range(2))
    for column, language in enumerate(main):
        own = table.language == language
        has[table.unit[own], column] = True
        owns_of[:, column] = owns_content(content[own], table.unit[own], len(names))
    return choose_held_out(names, owns, wanted, arguments.seed, has, owns_of, by)


def _within(table: FileTable, stays: np.ndarray, arguments: CorpusArguments) -> np.ndarray:
    """[N] whether a file is among the first max_bytes of those that stay, in hash order.

    Raises: Refusal when none is.
    """
    files = np.flatnonzero(stays)
    keys = [keyed_hash(arguments.seed, blob.tobytes()) for blob in table.blob[files]]
    order = files[np.argsort(np.array(keys, dtype="S16"), kind="stable")]
    fits = np.zeros(len(table), dtype=bool)
    fits[order[np.cumsum(table.size[order]) <= arguments.max_bytes]] = True
    if not fits.any():
        raise Refusal(
            f"max_bytes {arguments.max_bytes:,} keeps nothing: the file that the seed takes first "
            f"has {table.size[order[0]]:,} bytes; give more, or 0 to keep all."
        )
    return fits


def drop_rows(
    table: FileTable, counts: Counts, reason: str, rows: np.ndarray, chunks: list[Path]
) -> None:
    """Move files that were kept so far to `reason`."""
    num_files, num_bytes = int(rows.sum()), int(table.size[rows].sum())
    counts.kept.add(-num_files, -num_bytes)
    if num_files:
        samples = names_of_rows(table, np.flatnonzero(rows)[:NUM_SAMPLES], chunks)
        counts.drop(reason, num_files, num_bytes, samples)


def write_shards(
    table: FileTable,
    is_held_out: np.ndarray,
    stays: np.ndarray,
    chunks: list[Path],
    arguments: CorpusArguments,
) -> list[dict[str, Any]]:
    """Write both splits; returns what the manifest says of each shard."""
    from tqdm import tqdm

    output_dir = Path(arguments.output_dir)
    members = {TRAIN: stays & ~is_held_out, HELD_OUT: stays & is_held_out}
    for split in SPLITS:  # an earlier run that was cut off may have left more shards than ours
        shutil.rmtree(output_dir / split, ignore_errors=True)
        (output_dir / split).mkdir(parents=True)
    plans = [
        plan
        for split in SPLITS
        for plan in plan_shards(table, np.flatnonzero(members[split]), split, arguments.shard_bytes)
    ]
    tasks = ((plan, chunks, output_dir) for plan in plans)
    results = run_tasks(write_shard, tasks, min(arguments.worker_count, len(plans)))
    return list(tqdm(results, desc="writing", unit=" shards", total=len(plans), disable=None))


def _nothing_usable(counts: Counts) -> str:
    found = f"{counts.read.files:,} files ({counts.read.bytes:,} bytes) were read"
    return (
        f"no usable file: {found}; dropped: {counts.told() or 'none'}. Check sources and languages."
    )


def _versions(*names: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}
