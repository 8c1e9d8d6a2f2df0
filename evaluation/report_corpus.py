"""The report's part about the data: what was read, why files were dropped, what was held out."""

import shlex
from typing import Any

from evaluation.page import (
    Html,
    bar,
    count,
    fold,
    join,
    missing,
    note,
    percent,
    section,
    short,
    table,
    tag,
    warning,
)
from evaluation.run_files import RunFiles
from hugcoder.data.corpus import HELD_OUT, REPOSITORY, SPLITS, TRAIN, held_out_by, plural_of

MAX_ROWS = 20  # of a table; what is beyond is summed into one row
MAX_LICENSES = 10
MAX_NAMES = 60
EXAMPLES = 2
MAX_PATH = 70


def data(run: RunFiles) -> Html:
    """Everything the manifests of corpus, token store and tokenizer tell."""
    title = "What it was trained on"
    if run.corpus is None or "counts" not in run.corpus:
        where = f" (looked in {run.corpus_path})" if run.corpus_path else ""
        absent = f"where the files came from, because the corpus is not at hand{where}"
        command = f"python -m evaluation report {shlex.quote(str(run.folder))} --corpus FOLDER"
        return section(title, missing(absent, command), *_tokens(run))
    return section(
        title,
        _other_corpus_warning(run),
        *_kept_and_dropped(run.corpus["counts"]),
        tag(
            "div",
            tag("div", *_languages(run.corpus), *_tokens(run)),
            tag("div", *_licenses(run.corpus["licenses"])),
            class_="columns",
        ),
        *_repositories(run.corpus),
    )


def _other_corpus_warning(run: RunFiles) -> Html | str:
    """One line when the corpus at hand is not the one that was trained on."""
    found, own = run.corpus["fingerprint"], run.record["identity"]["corpus"]
    if found.startswith(own):
        return ""
    return warning(
        f"The corpus in {run.corpus_path} is another one ({found[:16]}) than the run's ({own}); "
        "what follows is about the one that is there now."
    )


def _kept_and_dropped(counts: dict[str, Any]) -> list[Html]:
    read, kept, dropped = counts["read"], counts["kept"], counts["dropped"]
    rows = [_kept_row(tag("b", "kept"), kept, read)]
    for reason in sorted(dropped, key=lambda name: -dropped[name]["files"]):
        paths = [clip(path) for path in dropped[reason].get("samples", [])[:EXAMPLES]]
        name = join([reason.replace("_", " "), tag("div", ", ".join(paths), class_="examples")])
        rows.append(_kept_row(name, dropped[reason], read))
    head = ["kept, or dropped because", "files", "of all read", "", "size"]
    return [
        tag(
            "p",
            f"{count(read['files'])} files ({short(read['bytes'], 'B')}) were read; "
            f"{count(kept['files'])} ({short(kept['bytes'], 'B')}) were kept. "
            "Every other file has the reason why it was dropped:",
        ),
        table(head, rows),
        note(
            "Look for a reason that takes more than you would have thrown away yourself. "
            "Under each reason are the first files that it took."
        ),
    ]


def _kept_row(name: Any, amount: dict[str, int], read: dict[str, int]) -> list[Any]:
    share = amount["files"] / max(read["files"], 1)
    size = short(amount["bytes"], "B")
    return [name, count(amount["files"]), percent(share), bar(share), size]


def _languages(corpus: dict[str, Any]) -> list[Html]:
    """Files and bytes of each language in training and held out."""
    by_split = corpus["languages"]
    names = sorted(
        {name for split in SPLITS for name in by_split[split]},
        key=lambda name: -by_split[TRAIN].get(name, {"bytes": 0})["bytes"],
    )
    totals = corpus["splits"]

    def row(name: Any, amounts: dict[str, dict[str, int]]) -> list[Any]:
        return [
            name,
            count(amounts[TRAIN]["files"]),
            short(amounts[TRAIN]["bytes"], "B"),
            percent(amounts[TRAIN]["bytes"] / max(totals[TRAIN]["bytes"], 1)),
            count(amounts[HELD_OUT]["files"]),
            short(amounts[HELD_OUT]["bytes"], "B"),
        ]

    nothing = {"files": 0, "bytes": 0}
    amounts = [{s: by_split[s].get(name, nothing) for s in SPLITS} for name in names]
    rows = [row(name, amount) for name, amount in zip(names, amounts, strict=True)][:MAX_ROWS]
    if rest := amounts[MAX_ROWS:]:
        summed = {
            split: {key: sum(one[split][key] for one in rest) for key in nothing}
            for split in SPLITS
        }
        rows.append(row(f"{len(rest)} more", summed))
    if len(names) > 1:
        rows.append(row(tag("b", "all"), totals))
    head = ["language", "train files", "size", "share", "held out", "size"]
    return [tag("h3", "Languages"), table(head, rows)]


def _tokens(run: RunFiles) -> list[Html]:
    """What the tokenizer made of the corpus."""
    if run.store is None:
        store = run.argument("token_store")
        command = (
            "python -m data_prep tokenize --corpus CORPUS --tokenizer TOKENIZER --output_dir "
            f"{shlex.quote(store)}"
        )
        return [missing(f"tokens, because the token store {store} is not at hand", command)]
    rows = [
        [
            split.replace("_", "-"),
            count(amount["documents"]),
            short(amount["tokens"]),
            f"{amount['bytes'] / max(amount['tokens'], 1):.2f}",
        ]
        for split, amount in run.store["splits"].items()
    ]
    made = [tag("h3", "Tokens"), table(["split", "documents", "tokens", "bytes per token"], rows)]
    measured = run.tokenizer
    if measured is None:
        folder = f"{run.argument('token_store')}/tokenizer"
        corpus = shlex.quote(run.corpus_path or "CORPUS")
        command = f"python -m tokenizer measure --tokenizer {shlex.quote(folder)} --corpus {corpus}"
        return [*made, missing("how good the tokenizer is", command)]
    return [
        *made,
        note(
            f"A vocabulary of {count(measured['vocab_size'])} tokens, "
            f"{percent(measured['vocabulary_used'])} of it used in "
            f"{short(measured['all']['bytes'], 'B')} of the {measured['split'].replace('_', '-')} "
            f"split; {measured['macro']['tokens_per_unit']:.2f} tokens for each name, "
            "number or punctuation character; "
            f"{count(measured['round_trip_failures'])} files did not come back byte for byte."
        ),
    ]


def _licenses(licenses: dict[str, dict[str, int]]) -> list[Html]:
    """The licences with most bytes."""
    total = sum(amount["bytes"] for amount in licenses.values())
    names = sorted(licenses, key=lambda name: -licenses[name]["bytes"])

    def row(shown: str, summed: list[str]) -> list[Any]:
        files, size = (sum(licenses[name][key] for name in summed) for key in ("files", "bytes"))
        share = size / max(total, 1)
        return [shown, count(files), percent(share), bar(share)]

    rows = [row(clip(name or "none stated"), [name]) for name in names[:MAX_LICENSES]]
    if rest := names[MAX_LICENSES:]:
        rows.append(row(f"{len(rest)} more", rest))
    return [tag("h3", "Licences"), table(["licence", "files", "of all bytes", ""], rows)]


def _repositories(corpus: dict[str, Any]) -> list[Html]:
    """The held-out repositories by name, the others folded."""
    held_out = corpus["held_out_repositories"]
    by = held_out_by(corpus)
    units = held_out if by == REPOSITORY else corpus["held_out_units"]
    held = count(len(units))
    if by != REPOSITORY:
        held = f"of which {held} {plural_of(by)} are"
    others = sorted(
        set(corpus["repositories"]) - set(held_out),
        key=lambda name: (-corpus["repositories"][name]["bytes"], name),
    )
    return [
        tag("h3", "Repositories"),
        tag(
            "p",
            f"{count(len(others))} to train on, {held} held out; a {by} is wholly on one side. "
            "Held out: ",
            _names(units),
            ".",
        ),
        fold(f"The {count(len(others))} to train on, largest first", tag("p", _names(others))),
    ]


def _names(names: list[str]) -> Html:
    more = f" and {count(len(names) - MAX_NAMES)} more" if len(names) > MAX_NAMES else ""
    return join([", ".join(clip(name) for name in names[:MAX_NAMES]) or "none", more])


def clip(text: str, limit: int = MAX_PATH) -> str:
    """A name short enough for a table: its beginning and its end."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}...{text[3 - limit // 2 :]}"
