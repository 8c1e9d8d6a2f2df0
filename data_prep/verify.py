"""`python -m data_prep verify FOLDER`: compare all of a corpus, a token store, a tokenizer, or a
model or checkpoint of a run.

Whoever opens such a folder compares names and sizes with its manifest; this reads every byte and
compares the hashes too, as after a copy or a suspicion about a disk.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from hugcoder.data import codec, token_store
from hugcoder.data import corpus as corpora
from hugcoder.file_table import FileTable, changed
from hugcoder.files import MANIFEST, read_manifest
from hugcoder.model import manifest
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal
from hugcoder.setting import with_help

KINDS = "a corpus, a token store, a tokenizer, or a run's model or checkpoint-N folder"
DESCRIPTION = (
    f"Read {KINDS}, and compare every file with the sizes and hashes of its manifest: "
    "python -m data_prep verify FOLDER."
)


@dataclass
class VerifyArguments:
    folder: str = with_help("", f"Folder of {KINDS}; the first word.")

    def __post_init__(self) -> None:
        if not self.folder:
            raise Refusal(f"no folder is given; name {KINDS}.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse([VerifyArguments], argv, description=DESCRIPTION, positional="folder")
    print(verify(Path(arguments.folder)))


def verify(folder: Path) -> str:
    """Compare everything; returns what was found to be whole, as a sentence.

    Raises: Refusal naming the first file that differs, or when the folder is none of KINDS.
    """
    began = time.perf_counter()
    kind = (read_manifest(folder) or {}).get("kind")
    readers = {"corpus": _corpus, "token_store": _store, "tokenizer": _tokenizer}
    readers |= dict.fromkeys((manifest.MODEL, manifest.CHECKPOINT), _weights)
    if not isinstance(kind, str) or kind not in readers:
        found = f"a {kind}" if kind else f"a folder without a {MANIFEST} that says what it is"
        raise Refusal(f"{folder} is {found}; give {KINDS}.")
    table = readers[kind](folder)
    hashed = [name for name, facts in table.items() if "sha256" in facts]
    size = sum((folder / name).stat().st_size for name in hashed) / 1e9
    seconds = time.perf_counter() - began
    unread = ""
    if len(hashed) < len(table):
        unread = (
            f"; {len(table) - len(hashed)} were made before hashes were kept, so only their names, "
            "and their sizes as the index counts them, could be compared"
        )
    return f"{folder} is whole: {len(hashed)} files, {size:.3f} GB read in {seconds:.1f} s{unread}."


def _corpus(folder: Path) -> FileTable:
    table = corpora.check_files(folder)
    corpora.check_content(folder, table, table)
    return table


def _store(folder: Path) -> FileTable:
    table = token_store.check_files(folder)
    if found := changed(folder, table):
        raise Refusal(token_store.damage_sentence(folder, found))
    for split in corpora.SPLITS:
        token_store.TokenStore(folder, split)
    expected = token_store.manifest_of(folder)["tokenizer_sha256"]
    if codec.Codec(folder / token_store.TOKENIZER).fingerprint != expected:
        name = f"{token_store.TOKENIZER}/tokenizer.json"
        raise Refusal(
            token_store.damage_sentence(folder, f"{name} has changed since it was written")
        )
    return table


def _tokenizer(folder: Path) -> FileTable:
    codec.Codec(folder)  # compares names and sizes, and the hash of tokenizer.json
    table = codec.files_of(read_manifest(folder) or {})
    if found := changed(folder, table):
        raise Refusal(codec.damage_sentence(folder, found))
    return table


def _weights(folder: Path) -> FileTable:
    if found := manifest.damage(folder):
        raise Refusal(
            f"{folder} is not what its {MANIFEST} says: {found}; copy the folder again, or go on "
            "from another checkpoint."
        )
    return manifest.manifest_of(folder)["files"]
