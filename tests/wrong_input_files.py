"""What is done to files before a program reads them (wrong_input.py says to which)."""

import contextlib
import gzip
import json
import os
import random
import shutil
from pathlib import Path

from wrong_input import Case
from wrong_input_values import DAMAGES, LFS_POINTER, RECIPES


def contents(folder: Path) -> dict[str, bytes | str]:
    """What lies in the inputs."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def prepare(case: Case, world: Path, folder: Path) -> None:
    """A copy of the world, with odd places beside it and the case's faults in it."""
    folder.mkdir(parents=True)
    shutil.copytree(world, folder / "in", symlinks=True)
    odd = folder / "odd"
    (odd / "empty").mkdir(parents=True)
    (odd / "dir.yaml").mkdir()
    (odd / "closed").mkdir(mode=0)
    (odd / "text.txt").write_text("some words\n")
    (odd / "empty.json").write_text("")
    (odd / "binary").write_bytes(bytes(range(256)) * 8)
    (odd / "caf\udce9").write_bytes(b"x")
    for name in ("closed.txt", "closed.yaml"):
        (odd / name).write_text("seed: 1\n")
        (odd / name).chmod(0)
    for name in ("fifo", "fifo.yaml"):
        os.mkfifo(odd / name)
    for name in ("broken", "broken.yaml"):
        (odd / name).symlink_to("nowhere")
    for name in ("loop", "loop.yml"):
        (odd / name).symlink_to(name)
    for what, place, *words in case.files:
        if what == "write":
            (folder / place).write_bytes(RECIPES[words[0]])
        elif what == "text":
            (folder / place).write_text(words[0])
        else:
            damage(folder / place, int(words[0]), words[1], words[2])


def damage(place: Path, number: int, kind: str, how: str) -> Path:
    """Damage the file that `number` chooses below a place; JSON only, where there is any."""
    rng = random.Random(number)
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    files = [file for file in files if ".git" not in file.parts or rng.random() < 0.2] or files
    as_json = [file for file in files if file.suffix == ".json"]
    if kind == "json" and not as_json:
        how = rng.choice(DAMAGES)
    file = rng.choice(as_json or files) if kind == "json" else rng.choice(files)
    if how == "names":
        return odd_names(place, rng)
    if how == "rows":
        return odd_rows(file, rng)
    content = file.read_bytes()
    if how == "json_inside":
        content_damaged = json_inside(content, rng)
    else:
        content_damaged = {
            "cut": lambda: content[: rng.randrange(len(content) + 1)],
            "cut_one_byte": lambda: content[:-1],
            "empty": lambda: b"",
            "flip": lambda: flipped(content, rng),
            "lfs_pointer": lambda: LFS_POINTER,
            "longer": lambda: content + b"\0\0",
            "zeros": lambda: bytes(len(content)),
            "text_in_place": lambda: b"no such thing\n",
            "json_list": lambda: b"[1, 2]",
            "json_word": lambda: b'"word"',
            "json_null": lambda: b"null",
            "json_number": lambda: b"3",
            "json_empty": lambda: b"{}",
            "json_deep": lambda: b"[" * 200_000,
            "json_latin": lambda: b'{"a": "\xe9"}',
            "json_nan": lambda: b'{"a": NaN}',
        }.get(how, lambda: None)()
    if content_damaged is not None:
        file.write_bytes(content_damaged)
        return file
    if how == "closed":
        file.chmod(0)
        return file
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "broken_link":
        file.symlink_to("nowhere")
    elif how == "loop":
        file.symlink_to(file.name)
    elif how == "fifo":
        os.mkfifo(file)
    return file


ODD_VALUES = [None, 3, 1.5, True, [], ["a"], {"a": 1}, "", " ", "\ud83d", "a\0b", "../../x.py"]
ODD_VALUES += ["/etc/x.py"]
ODD_VALUES += ["x" * 5000, "a\nb.py", "caf\u00e9.py", ".", "..", "a//b.py", "\ufeff", "C:\\x.py"]
ODD_VALUES += [10**30]
ODD_COLUMNS = ["repo", "path", "content", "license", "language", "size", "max_stars_repo_name"]


def odd_rows(file: Path, rng: random.Random) -> Path:
    """Some rows, or a whole column, of other values."""
    import pyarrow
    import pyarrow.parquet

    if file.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(file).to_pylist()
    else:
        content = file.read_bytes()
        text = gzip.decompress(content) if file.suffix == ".gz" else content
        rows = [json.loads(line) for line in text.splitlines()]
    name, value = rng.choice(ODD_COLUMNS), rng.choice(ODD_VALUES)
    for number in rng.choice([[0], [3], range(len(rows)), range(5, len(rows))]):
        rows[number][name] = value
        if rng.random() < 0.1:
            del rows[number][name]
    if file.suffix == ".parquet":
        values = rng.choice([[row.get(name) for row in rows], [value] * len(rows)])
        columns = {n: [str(row.get(n)) for row in rows] for n in ("repo", "path", "content")}
        with contextlib.suppress(pyarrow.ArrowException, UnicodeEncodeError, OverflowError):
            table = pyarrow.table(columns | {name: values})
            pyarrow.parquet.write_table(table, file)
        return file
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    others = [b"\n" + text, b"\xef\xbb\xbf" + text, text.replace(b"\n", b"\r\n")]
    text = rng.choice([text, text, *others])
    file.write_bytes(gzip.compress(text, mtime=0) if file.suffix == ".gz" else text)
    return file


def odd_names(place: Path, rng: random.Random) -> Path:
    """Files and folders with names and natures that a repository seldom has."""
    repository = rng.choice(sorted(place.iterdir()))
    names = ["LICENSE", "caf\udce9.py", "a\nb.py", ".git", "COPYING.md", "._x.py", "x" * 250]
    name = rng.choice([*names, "\u200b.py"])
    at = rng.choice([place, repository, repository]) / name
    if at.is_dir():
        shutil.rmtree(at)
    kind = rng.choice(["folder", "empty", "binary", "link", "loop", "fifo", "closed", "renamed"])
    if kind == "folder":
        at.mkdir()
    elif kind in ("link", "loop"):
        at.symlink_to("nowhere" if kind == "link" else at.name)
    elif kind == "fifo":
        os.mkfifo(at)
    elif kind == "renamed":
        repository.rename(place / rng.choice(["caf\udce9", "a\nb", " ", "--x", "x" * 250, "a,b=c"]))
    else:
        at.write_bytes({"empty": b"", "binary": bytes(range(256)), "closed": b"gitdir: x\n"}[kind])
        at.chmod(0 if kind == "closed" else 0o644)
    return at


def flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


OTHERS = [None, [], {}, "", "word", -1, 0, 10**30, 1.5, True, [None], ["a"], {"a": None}]
OTHERS += [float("nan")]


def json_inside(content: bytes, rng: random.Random) -> bytes:
    """A JSON document with one entry, at any depth, taken out or of another type."""
    document = json.loads(content)
    node, holder = document, None
    while isinstance(node, dict | list) and node and (holder is None or rng.random() < 0.7):
        key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
        holder, node = (node, key), node[key]
    if holder is None:
        return b"{}"
    if rng.random() < 0.35:
        del holder[0][holder[1]]
    else:
        holder[0][holder[1]] = rng.choice(OTHERS)
    return json.dumps(document).encode()
