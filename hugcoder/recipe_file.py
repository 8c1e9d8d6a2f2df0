"""Reads recipe files, flat YAML, into settings; a refusal names the file and the line."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import yaml

from hugcoder.flag_parser import FlagParser
from hugcoder.refusal import Refusal
from hugcoder.setting import Setting, checked_setting


class _StrictLoader(yaml.SafeLoader):
    """Reads YAML with 1.2 numbers (2e-5 is a float) and without yes/no booleans."""


_StrictLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in pairs
        if tag not in {"tag:yaml.org,2002:float", "tag:yaml.org,2002:bool"}
    ]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf")
)


YAML_TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = {"str", "int", "float", "bool", "null", "timestamp", "seq", "map"}


def read_recipe(path: Path, parser: FlagParser) -> list[Setting]:
    """Read one recipe file into settings.

    Raises: Refusal when the file is missing, is not a flat mapping, or holds an unknown, empty or
    duplicate key.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise Refusal(
            f"the recipe {path} {what}; configs/recipes holds the ones that come with HugCoder."
        )
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise Refusal(f"{path} is not valid YAML: it is nested too deeply.") from None
    if not isinstance(root, yaml.MappingNode):
        raise Refusal(f"{path} must hold lines of the form 'setting: value'.")
    settings: dict[str, Setting] = {}
    for key_node, value_node in root.value:
        line = key_node.start_mark.line + 1
        place = f"{path} line {line}"
        name = _name(key_node, place)
        action = parser.flag(name)
        if action is None:
            raise Refusal(f"{place}: unknown setting {name!r}. {parser.suggestion(name)}")
        words = _value_words(value_node, action, place, name in parser.mappings)
        setting = checked_setting(action, words, place)
        if setting.name in settings:
            first = settings[setting.name]
            first_line = first.place.rpartition(" line ")[2]
            raise Refusal(
                f"{path}: {setting.name} is set twice, to {first.value} (line {first_line}) and to "
                f"{setting.value} (line {line}); keep one."
            )
        settings[setting.name] = setting
    return list(settings.values())


def _value_words(
    node: yaml.Node, action: argparse.Action, place: str, takes_mapping: bool
) -> tuple[str, ...]:
    """Turn a YAML value into command-line words.

    A scalar stays as written, a list becomes several words, a mapping JSON or k=v words.

    Args: takes_mapping: whether the setting's type names a dict.
    """
    place = f"{place}: {action.dest}"
    _check_plain(node, place, set())
    if isinstance(node, yaml.ScalarNode):
        return (_word(node, place),)
    if not node.value:
        kind = "list" if isinstance(node, yaml.SequenceNode) else "mapping"
        raise Refusal(f"{place} is an empty {kind}; delete the line for the default.")
    if isinstance(node, yaml.SequenceNode):
        return tuple(
            _word(item, place)
            if isinstance(item, yaml.ScalarNode)
            else json.dumps(_plain(item, place))
            for item in node.value
        )
    values = _plain(node, place)
    if action.nargs == "+":
        for _, item in node.value:
            _word(item, place)
        return tuple(f"{name}={value}" for name, value in values.items())
    if not takes_mapping:
        raise Refusal(f"{place} takes one value, not a mapping of names to values.")
    return (json.dumps(values),)


def _word(node: yaml.Node, place: str) -> str:
    """Return a scalar as written. Raises: Refusal for an empty value, a list or a mapping."""
    if not isinstance(node, yaml.ScalarNode):
        raise Refusal(f"{place} takes words and numbers here, not a list or a mapping.")
    if node.tag == f"{YAML_TAG}null" and node.style is None:
        raise Refusal(f"{place} has no value; give one or delete the line.")
    return node.value


def _name(node: yaml.Node, place: str) -> str:
    """Return a key. Raises: Refusal when it is a list or a mapping."""
    if not isinstance(node, yaml.ScalarNode):
        raise Refusal(f"{place}: a name must be one word, not a list or a mapping.")
    return node.value


def _check_plain(node: yaml.Node, place: str, seen: set[int]) -> None:
    """Refuse what no command line can say, at every depth.

    That is tags that make Python objects, aliases of whole lists (a list may even hold itself),
    merges, and characters that no file name may hold.
    """
    if node.tag.removeprefix(YAML_TAG) not in PLAIN_TAGS:
        raise Refusal(f"{place} has the tag {node.tag!r}; give a plain value without a tag.")
    if isinstance(node, yaml.ScalarNode):
        if re.search("[\0\ud800-\udfff]", node.value):
            raise Refusal(f"{place} holds a NUL or half a character: {node.value!r}; remove it.")
        return
    if id(node) in seen:
        raise Refusal(f"{place} repeats a list or mapping by an alias (*name); write it out.")
    seen.add(id(node))
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            _check_plain(part, place, seen)


def _plain(node: yaml.Node, place: str) -> Any:
    """Return the Python value of a node; refuse duplicate keys at every depth; keep dates as
    text."""
    if isinstance(node, yaml.MappingNode):
        keys = [_name(key, place) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise Refusal(f"{place}: {key!r} is set twice inside; keep one.")
        return {key.value: _plain(value, place) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, place) for item in node.value]
    if node.tag == f"{YAML_TAG}timestamp":
        return node.value
    loader = _StrictLoader("")
    try:
        return loader.construct_object(node)
    except (ValueError, KeyError, yaml.YAMLError):
        kind = node.tag.removeprefix(YAML_TAG)
        raise Refusal(f"{place}: {node.value[:60]!r} cannot be read as {kind}.") from None
    finally:
        loader.dispose()
