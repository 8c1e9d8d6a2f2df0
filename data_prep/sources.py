"""Sources: what `sources` of a corpus may say, and which module lists and reads each type.

A source is listed once, lazily, in chunks of a few megabytes; a chunk is plain data, so that a
worker process can read it and a later run can recognise it. Listing order is part of the result:
of identical files the first listed stays.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep import git_trees, hub, installed_python, layout, on_disk, tables
from data_prep.document import RawFile
from data_prep.source_options import checked
from hugcoder.refusal import Refusal

OPTIONS: dict[str, tuple[str, ...]] = {  # of each type; the first must be given, "" for none
    "folder": ("path", "repo", "depth"),
    "git": ("path",),
    "python": ("", "distributions", "stdlib", "stdlib_tests"),
    "parquet": ("path", "repo", "language", "columns"),
    "jsonl": ("path", "repo", "language", "columns"),
    "hub": ("dataset", "config", "split", "revision", "max_rows", "repo", "language", "columns"),
}


@dataclass(frozen=True)
class Source:
    """One entry of `sources`: its name in the corpus, its type and its options."""

    name: str
    type: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """A part of a source that one worker reads; `items` is what its type needs to find it."""

    source: str
    type: str
    items: Any

    def key(self, fingerprint: str) -> str:
        """32 hex digits that change with the listing and with the fingerprint of the settings."""
        text = json.dumps([asdict(self), fingerprint], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def parse_sources(words: list[str]) -> list[Source]:
    """The sources that the words of --sources describe. Raises: Refusal for a wrong word."""
    sources = [_parse_source(word) for word in words]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise Refusal(f"sources: two sources are called {name!r}; add name=... to tell them.")
    return sources


def _parse_source(word: str) -> Source:
    options = _options(word)
    kind = options.pop("type", None)
    if not isinstance(kind, str) or kind not in OPTIONS:
        has = "no type" if kind is None else f"type {kind!r}"
        raise Refusal(f"sources: {word!r} has {has}; give one of {', '.join(OPTIONS)}.")
    known = ("name", *filter(None, OPTIONS[kind]))
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}."
            raise Refusal(f"sources: a {kind} source has no option {option!r}; {hint}")
    needed = OPTIONS[kind][0]
    if needed and not options.get(needed):
        raise Refusal(f"sources: a {kind} source needs {needed}=..., and {word!r} has none.")
    options = {option: checked(option, value) for option, value in options.items()}
    if options.get("repo") and options.get("depth"):
        raise Refusal(
            f"sources: {word!r} has repo, which makes one repository of all, and depth, which "
            "looks for several; give one of them."
        )
    place = options.get(needed, kind)
    name = options.pop("name", None) or (place if kind == "hub" else _name_of_place(place))
    return Source(name, kind, options)


def _name_of_place(place: str) -> str:
    if place in OPTIONS:
        return place
    return layout.own_name(os.path.expanduser(place))


def _options(word: str) -> dict[str, Any]:
    """A JSON object, or k=v words with commas between them."""
    if word.lstrip()[:1] in tuple('{["'):
        try:
            pairs = json.loads(word, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as error:
            raise Refusal(f"sources: {word[:200]!r} is not valid JSON: {error}.") from None
        if not isinstance(pairs, _Pairs):
            raise Refusal(
                f"sources: {word!r} is JSON but no object; give "
                '{"type": "folder", "path": "src"}, or type=folder,path=src.'
            )
        return _without_doubles(word, pairs)
    parts = [part.partition("=") for part in word.split(",")]
    if any(not equals for _, equals, _ in parts):
        raise Refusal(
            f"sources: {word!r} is not of the form type=folder,path=src; write JSON where a value "
            "holds a comma."
        )
    return _without_doubles(word, [(key.strip(), value) for key, _, value in parts])


class _Pairs(list):
    """A JSON object with all of its pairs."""


def _without_doubles(word: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in pairs:
        if key in options:
            raise Refusal(f"sources: {word!r} gives {key} twice; give it once.")
        options[key] = _without_doubles(word, value) if isinstance(value, _Pairs) else value
    return options


def list_chunks(source: Source, output_dir: Path | None = None) -> Iterator[Chunk]:
    """The chunks of one source, in order.

    Args: output_dir: a folder that is never read, even when it lies in the source.
    Raises: Refusal when the source is not there, or is a part of output_dir.
    """
    for items in _list_items(source.type, source.options, output_dir):
        yield Chunk(source.name, source.type, items)


def _list_items(kind: str, options: dict[str, Any], output_dir: Path | None) -> Iterator[Any]:
    """What the chunks of a source of this type hold."""
    if kind == "folder":
        return on_disk.list_folder(
            options["path"], options.get("repo", ""), options.get("depth", 0), output_dir
        )
    if kind == "git":
        return git_trees.list_trees(options["path"], output_dir)
    if kind == "python":
        return installed_python.list_installed(options)
    if kind == "parquet":
        return tables.list_parquet(options, output_dir)
    if kind == "jsonl":
        return tables.list_jsonl(options, output_dir)
    dataset = options["dataset"]
    if output_dir and os.path.isdir(dataset) and layout.place_in(output_dir, Path(dataset)):
        raise Refusal(
            f"sources: output_dir {output_dir} lies in the dataset {dataset}, which would be read "
            "with it; give another."
        )
    return hub.list_hub(options)


def read_chunk(chunk: Chunk) -> Iterator[RawFile]:
    """The files of one chunk, in order; their bytes are read when asked for."""
    if chunk.type in ("folder", "python"):
        return on_disk.read(chunk.items)
    if chunk.type == "git":
        return git_trees.read(chunk.items)
    if chunk.type == "parquet":
        return tables.read_parquet(chunk.items)
    if chunk.type == "jsonl":
        return tables.read_jsonl(chunk.items)
    return hub.read_hub(chunk.items)
