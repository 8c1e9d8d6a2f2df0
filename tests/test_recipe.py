"""Recipes and flags: which value wins, what is refused, and that refusals name flag and place.

Uses small groups of its own, and the three groups of train.py where the Trainer's hundred fields
matter.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from hugcoder.recipe import assignments, parse
from hugcoder.refusal import Refusal


def setting(default: Any, text: str = "What it does."):
    return field(default=default, metadata={"help": text})


@dataclass
class Groups:
    learning_rate: float = setting(1.0, "Share of 100 % that a step moves.")
    num_rows: int = setting(8)
    is_packed: bool = setting(True)
    use_muon: bool = setting(False)
    name: str = setting("")
    eval_strategy: str = setting("steps")
    optimizer: Literal["adamw", "muon"] = setting("adamw")
    spans: list[str] = field(default_factory=lambda: ["a=1"], metadata={"help": "~20%% weights."})
    extra: dict | str | None = field(default=None, metadata={"help": "JSON."})

    def __post_init__(self) -> None:
        if self.num_rows == 13:
            raise ValueError("num_rows 13 brings bad luck; give another.")


@dataclass
class More:
    output_dir: str = setting("")


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a recipe file and returns its path as a word."""

    def write(text: str, name: str = "recipe.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def parsed(*words: str, positional: str = "") -> Groups:
    return parse([Groups], list(words), description="A program.", positional=positional)


def refusal(*words: str, positional: str = "") -> str:
    with pytest.raises(Refusal) as caught:
        parsed(*words, positional=positional)
    message = str(caught.value)
    assert "\n" not in message, "one sentence, one line"
    return message


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 2e-5", "learning_rate", 2e-5),
        ("learning_rate: 3", "learning_rate", 3.0),
        ("learning_rate: -0.5", "learning_rate", -0.5),
        ("num_rows: -1", "num_rows", -1),
        ("eval_strategy: no", "eval_strategy", "no"),
        ("eval_strategy: 'no'", "eval_strategy", "no"),
        ("eval_strategy: on", "eval_strategy", "on"),
        ("name: '007'", "name", "007"),
        ("name: 007", "name", "007"),
        ("name: a=b --c", "name", "a=b --c"),
        ("name: ''", "name", ""),
        ("name: \u00e9\u6f22", "name", "\u00e9\u6f22"),
        ("is_packed: false", "is_packed", False),
        ("use_muon: true", "use_muon", True),
        ("optimizer: muon", "optimizer", "muon"),
        ("spans: [a=1, b=2]", "spans", ["a=1", "b=2"]),
        ("spans:\n  - a=1\n  - b=2\n", "spans", ["a=1", "b=2"]),
        ("spans: {random: 0.4, short: 2e-1}", "spans", ["random=0.4", "short=0.2"]),
        ("spans: [no, on]", "spans", ["no", "on"]),
        ("spans: [007, 1_000, 1:30, 2024-13-45]", "spans", ["007", "1_000", "1:30", "2024-13-45"]),
        ("spans: [&a x=1, *a]", "spans", ["x=1", "x=1"]),
        ("name: 2024-01-01", "name", "2024-01-01"),
        ("\ufeffname: a", "name", "a"),
        ("extra: {strategy: no}", "extra", '{"strategy": "no"}'),
        ("extra: {a: 1, b: {c: true}}", "extra", '{"a": 1, "b": {"c": true}}'),
    ],
)
def test_a_recipe_line_becomes_its_value(recipe, text, name, value):
    assert getattr(parsed(recipe(text)), name) == value


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--learning_rate", "2e-5"], "learning_rate", 2e-5),
        (["--learning-rate", "2"], "learning_rate", 2.0),
        (["--learning_rate=3"], "learning_rate", 3.0),
        (["--name=a=b"], "name", "a=b"),
        (["--name="], "name", ""),
        (["--name", ""], "name", ""),
        (["--num_rows", "-1"], "num_rows", -1),
        (["--num_rows=-1"], "num_rows", -1),
        (["--use_muon"], "use_muon", True),
        (["--use_muon", "true"], "use_muon", True),
        (["--is_packed", "false"], "is_packed", False),
        (["--is_packed=no"], "is_packed", False),
        (["--spans", "a=1", "b=2"], "spans", ["a=1", "b=2"]),
    ],
)
def test_a_flag_becomes_its_value(words, name, value):
    assert getattr(parsed(*words), name) == value


@pytest.mark.parametrize(
    "text", ["-- a comment", "--verbose", "-h", "--help", "-1", "- item", "--", "a = b", ""]
)
def test_the_word_behind_a_flag_for_text_is_its_value(text):
    words = ["--num_rows", "3", "--name", text, "--use_muon"]
    found = parse([Groups], words, description="", texts=["name"])
    assert (found.name, found.num_rows, found.use_muon) == (text, 3, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--name", "--num_rows", "3"], "not --num_rows; a text that is the name of a flag is giv"),
        (["--name", "--num-rows=3"], "is given as --name=--num-rows=3"),
        (["--num_rows", "3", "--name"], "--name must be followed by its text; a text that is the"),
    ],
)
def test_a_flag_for_text_without_its_text_is_refused(words, sentence):
    with pytest.raises(Refusal, match=re.escape(sentence)):
        parse([Groups], words, description="", texts=["name"])


def test_a_value_with_dashes_is_refused_with_the_way_to_write_it():
    assert "As the value of --name, write --name=--x." in refusal("--name", "--x")
    assert "As the value" not in refusal("--num_rows", "3", "--x")


def test_a_word_that_is_not_utf8_is_refused():
    assert "is not UTF-8, or the locale is not UTF-8" in refusal("--name", "caf\udce9")


def test_a_path_of_a_recipe_below_configs_is_found_from_any_working_folder(
    recipe, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    configs = Path(__file__).parent.parent / "configs"
    there = parsed(recipe("name: configs/models/tiny.json"))
    assert there.name == str(configs / "models" / "tiny.json")
    assert parsed("--name", "configs/models/none.json").name == "configs/models/none.json"
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "models" / "tiny.json").touch()
    assert parsed("--name", "configs/models/tiny.json").name == "configs/models/tiny.json"
    assert "unknown setting" in refusal("configs/recipes/tokenizer.yaml")  # it was read


@pytest.mark.parametrize("words", [["--no_is_packed"], ["--no-is-packed"]])
def test_the_no_form_of_a_flag_switches_it_off(words):
    assert parsed(*words).is_packed is False


@pytest.mark.parametrize(
    "words",
    [
        ["--learning_rate", "-1e-5"],
        ["--learning_rate=-1e-5"],
        ["--name=-draft"],
    ],
)
def test_a_value_may_start_with_a_minus(words):
    values = parsed(*words)
    assert (values.learning_rate, values.name) in {(-1e-5, ""), (1.0, "-draft")}


def test_a_value_in_a_recipe_may_start_with_a_minus(recipe):
    assert parsed(recipe("learning_rate: -1e-5\nname: --x\n")).learning_rate == -1e-5


def test_an_empty_list_is_refused_for_words_cannot_say_it(recipe):
    assert "spans is an empty list; delete the line" in refusal(recipe("spans: []"))


# ---- who wins ------------------------------------------------------------------------------------


def test_later_recipes_win_over_earlier_ones_and_flags_over_all(recipe):
    first = recipe("num_rows: 1\nname: first\nlearning_rate: 0.1\n", "a.yaml")
    second = recipe("num_rows: 2\nname: second\n", "b.yml")
    values = parsed(first, second, "--num_rows", "3")
    assert (values.num_rows, values.name, values.learning_rate) == (3, "second", 0.1)
    values = parsed(second, first)
    assert (values.num_rows, values.name) == (1, "first")


def test_a_flag_replaces_a_list_and_does_not_extend_it(recipe):
    assert parsed(recipe("spans: [a=1, b=2]"), "--spans", "c=3").spans == ["c=3"]


def test_several_groups_come_back_in_order():
    first, second = parse(
        [Groups, More], ["--output_dir", "runs/a", "--num_rows", "2"], description="d"
    )
    assert (first.num_rows, second.output_dir) == (2, "runs/a")


def test_a_leading_word_that_is_no_recipe_is_the_positional_field(recipe):
    values = parsed("runs/model", recipe("num_rows: 2"), "--use_muon", positional="name")
    assert (values.name, values.num_rows, values.use_muon) == ("runs/model", 2, True)


def test_the_dashed_spelling_is_the_same_setting(recipe):
    path = recipe("learning_rate: 1", "a.yaml")
    assert parsed(path, "--learning-rate", "2").learning_rate == 2
    assert parsed(recipe("learning-rate: 1", "b.yaml"), "--learning_rate", "2").learning_rate == 2


def test_the_last_value_wins_whichever_spelling_it_has(recipe):
    first, second = recipe("learning_rate: 1", "a.yaml"), recipe("learning-rate: 2", "b.yaml")
    assert parsed(first, second, "--learning_rate", "3").learning_rate == 3


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# comment\nnum_rosw: 1", ["line 2", "unknown setting 'num_rosw'", "'num_rows'"]),
        ("num_rows: 1.5", ["line 1", "num_rows", "'1.5'"]),
        ("\nlearning_rate: fast", ["line 2", "learning_rate", "'fast'"]),
        ("optimizer: sgd", ["line 1", "optimizer", "'sgd'", "adamw", "muon"]),
        ("is_packed: perhaps", ["line 1", "is_packed", "perhaps"]),
        ("num_rows: 1\nname: x\nnum_rows: 2", ["num_rows", "1 (line 1)", "2 (line 3)"]),
        ("extra: {a: 1, a: 2}", ["line 1", "'a' is set twice"]),
        ("name:\nnum_rows: 1", ["line 1", "name has no value"]),
        ("num_rows: 13", ["line 1", "num_rows 13 brings bad luck"]),
        ("- num_rows", ["must hold lines of the form 'setting: value'"]),
        ("num_rows", ["must hold lines of the form 'setting: value'"]),
        ("", ["must hold lines of the form 'setting: value'"]),
        ("a: [", ["is not valid YAML"]),
        ("num_rows: 1\n---\nnum_rows: 2\n", ["is not valid YAML"]),
        ("name: " + "[" * 5000, ["is not valid YAML: it is nested too deeply"]),
        ("name: null", ["line 1", "name has no value"]),
        ("spans: [a=1, ~]", ["line 1", "spans has no value"]),
        ("spans: {a: null}", ["line 1", "spans has no value"]),
        ("spans: {a: [1]}", ["spans takes words and numbers here, not a list or a mapping"]),
        ("name: {a: 1}", ["line 1", "name takes one value, not a mapping"]),
        ("name: {}", ["line 1", "name is an empty mapping"]),
        ("[a, b]: 1", ["line 1", "a name must be one word"]),
        ("extra: {[a]: 1}", ["line 1", "a name must be one word"]),
        ("extra: {<<: {a: 1}}", ["line 1", "has the tag 'tag:yaml.org,2002:merge'"]),
        ("name: !!python/object:os.system {}", ["line 1", "has the tag", "python/object"]),
        ("spans: [!mine x]", ["line 1", "has the tag '!mine'"]),
        ("extra: {a: !!binary QQ==}", ["line 1", "has the tag", "binary"]),
        ("extra: {a: !!int x}", ["line 1", "'x' cannot be read as int"]),
        (f"extra: {{a: {'1' * 5000}}}", ["line 1", "cannot be read as int"]),
        ("extra: &x {a: *x}", ["line 1", "repeats a list or mapping by an alias"]),
        ("extra: {a: &x [1], b: [*x, *x]}", ["repeats a list or mapping by an alias"]),
        ('name: "a\\0b"', ["line 1", "holds a NUL"]),
        ('spans: ["\\ud83d"]', ["line 1", "half a character"]),
    ],
)
def test_a_mistake_in_a_recipe_is_refused_where_it_stands(recipe, text, words):
    path = recipe(text)
    message = refusal(path)
    for word in [path, *words]:
        assert word in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num_rosw", "1"], ["unknown setting '--num_rosw'", "'num_rows'"]),
        (["--num_rows", "1", "--num_rows", "2"], ["num_rows is given twice", "1 and 2"]),
        (["--num_rows", "1", "--num-rows=2"], ["num_rows is given twice", "1 and 2"]),
        (["--num_rows", "many"], ["num_rows", "'many'", "the command line"]),
        (["--optimizer", "sgd"], ["optimizer", "'sgd'", "the command line"]),
        (["--num_rows"], ["num_rows", "expected one argument"]),
        (["--num_row", "1"], ["unknown setting '--num_row'", "'num_rows'"]),
        (["num_rows"], ["'num_rows' is neither a recipe (a .yaml file) nor a flag"]),
        (["-n", "1"], ["unknown setting '-n'"]),
        (["--num_rows", "1", "late.yaml"], ["late.yaml"]),
    ],
)
def test_a_mistake_on_the_command_line_is_refused(arguments, words):
    message = refusal(*arguments)
    for word in words:
        assert word in message


def test_a_missing_recipe_is_refused():
    assert "nowhere.yaml does not exist" in refusal("nowhere.yaml")


def test_a_recipe_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    assert "folder.yaml is not a file" in refusal(str(tmp_path / "folder.yaml"))


def test_a_recipe_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not valid YAML" in refusal(str(tmp_path / "binary.yaml"))


def test_a_refusal_names_the_place_the_losing_values_are_not_at(recipe):
    first, second = recipe("num_rows: 1", "a.yaml"), recipe("num_rows: many", "b.yaml")
    message = refusal(first, second)
    assert "b.yaml line 1" in message
    assert "a.yaml" not in message


def test_two_spellings_of_one_setting_in_a_recipe_are_a_duplicate(recipe):
    assert "set twice" in refusal(recipe("learning-rate: 1\nlearning_rate: 2\n"))


@pytest.mark.parametrize("words", [["one", "two"], ["one", "--name", "two"]])
def test_two_values_for_the_positional_field_are_refused(words):
    message = refusal(*words, positional="name")
    assert "one" in message
    assert "two" in message


def test_a_date_inside_a_mapping_is_no_traceback(recipe):
    assert "2024-01-01" in parsed(recipe("extra: {since: 2024-01-01}")).extra


@pytest.mark.parametrize("text", ["name: [a, b]", "no_is_packed: true"])
def test_words_left_over_are_refused_with_setting_and_place(recipe, text):
    message = refusal(recipe(text))
    assert "line 1" in message
    assert text.split(":")[0] in message


def test_assignments_are_names_with_numbers():
    assert assignments(["a=0.5", "b=2"], "--mixture") == {"a": 0.5, "b": 2.0}


def test_a_name_may_hold_what_separates_it_from_its_number():
    words = ["hub:org/set?split=a=2", "source/x=y=0.5"]
    assert assignments(words, "--mixture") == {"hub:org/set?split=a": 2.0, "source/x=y": 0.5}


@pytest.mark.parametrize("word", ["a", "a=", "a=x", "=", "=2", "a=1="])
def test_a_word_that_is_no_assignment_is_refused(word):
    with pytest.raises(Refusal, match=f"--mixture takes words like name=0.5, not '{word}'"):
        assignments([word], "--mixture")


@pytest.mark.parametrize("words", [["a=-1"], ["a=nan"], ["a=inf"], ["a=1", "a=2"]])
def test_an_assignment_is_refused_when_negative_endless_or_repeated(words):
    with pytest.raises(Refusal, match="name each entry once with a number of at least 0"):
        assignments(words, "--mixture")


# ---- help ----------------------------------------------------------------------------------------


def test_help_shows_effect_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed("--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Share of 100 % that a step moves. (default: 1.0)" in re.sub(r"\s+", " ", shown)
    assert "~20% weights." in shown


def test_help_lists_own_settings_before_the_trainers(capsys):
    from train import main

    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out.split("\nmodel: what is trained", 1)[1]
    inherited = shown.index("every other setting of the transformers Trainer")
    for own in ("--config_file", "--fim_rate", "--use_muon", "--learning_rate", "--output_dir"):
        assert shown.index(f"\n  {own} ") < inherited
    assert shown.index("\n  --adam_epsilon ") > inherited


def test_every_group_of_training_shares_one_recipe(recipe, tmp_path: Path):
    from hugcoder.pretraining.arguments import DataArguments, ModelArguments, PretrainArguments

    path = recipe(
        "config_file: configs/models/tiny.json\ntoken_store: data/t\nfim_rate: 0.9\n"
        "learning_rate: 2e-4\neval_strategy: no\nfim_spans: {short: 1}\n"
        f"output_dir: {tmp_path}\nlr_scheduler_kwargs: {{num_cycles: 2}}\n"
    )
    groups = [ModelArguments, DataArguments, PretrainArguments]
    model, data, training = parse(groups, [path, "--fim_rate", "0.8"], description="d")
    assert model.config_file == "configs/models/tiny.json"
    assert (data.fim_rate, data.fim_settings.spans.weights) == (0.8, (0, 1, 0, 0, 0, 0))
    assert (training.learning_rate, training.eval_strategy) == (2e-4, "no")
    assert training.lr_scheduler_kwargs == {"num_cycles": 2}
    with pytest.raises(Refusal, match=r"fim_rate 1.5 is not a probability.*the command line"):
        parse(groups, [path, "--fim_rate", "1.5"], description="d")


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_that_numpy_does_not_take_is_refused(tmp_path, seed):
    from hugcoder.pretraining.arguments import PretrainArguments

    words = ["--output_dir", str(tmp_path), "--seed", seed]
    with pytest.raises(Refusal, match="seed"):
        parse([PretrainArguments], words, description="d")


def test_two_models_to_start_from_are_refused_with_both_values():
    from hugcoder.pretraining.arguments import ModelArguments

    words = ["--config_file", "configs/models/tiny.json", "--model_name_or_path", "hub/model"]
    with pytest.raises(Refusal, match=r"tiny.json' and model_name_or_path 'hub/model' are given"):
        parse([ModelArguments], words, description="d")


@pytest.mark.parametrize(
    ("text", "words", "kept", "gone"),
    [
        ("config_file: a.json\nresidual_init: zero", "--model_name_or_path runs/one", 1, 0),
        ("model_name_or_path: runs/one", "--config_file a.json", 0, 1),
    ],
)
def test_a_flag_goes_in_place_of_what_the_recipe_says_in_another_way(
    recipe, caplog, text, words, kept, gone
):
    """Symptom: adapting with a recipe of pretraining took --config_file "" and a guess."""
    from hugcoder.pretraining.arguments import ModelArguments

    names = ("config_file", "model_name_or_path")
    with caplog.at_level("INFO"):
        made = parse([ModelArguments], [recipe(text), *words.split()], description="")
    assert getattr(made, names[kept])
    assert not getattr(made, names[gone])
    assert f"{words[2:]} (the command line) replaces {names[gone]} " in caplog.text


def test_one_place_that_says_two_ways_is_refused_and_a_default_replaces_nothing(recipe):
    from hugcoder.pretraining.arguments import ModelArguments

    both = recipe("config_file: a.json\nmodel_name_or_path: runs/one")
    with pytest.raises(Refusal, match="give exactly one"):
        parse([ModelArguments], [both], description="")
    with pytest.raises(Refusal, match="give exactly one"):
        parse([ModelArguments], [recipe("config_file: a"), "--config_file="], description="")
    emptied = [recipe("config_file: a"), "--config_file=", "--model_name_or_path=runs/one"]
    assert parse([ModelArguments], emptied, description="").model_name_or_path == "runs/one"


@pytest.mark.parametrize(
    ("text", "words", "steps", "passes"),
    [
        ("max_steps: 500", "--num_train_epochs 4", -1, 4.0),
        ("num_train_epochs: 4", "--max_steps 500", 500, 1.0),
        ("num_train_epochs: 4", "--max_steps -1", -1, 4.0),
        ("max_steps: 500", "--max_steps -1 --num_train_epochs 4", -1, 4.0),
    ],
)
def test_the_later_of_steps_and_passes_says_how_long_a_run_is(
    recipe, tmp_path, text, words, steps, passes
):
    from hugcoder.pretraining.arguments import PretrainArguments

    given = [recipe(text), *words.split(), "--output_dir", str(tmp_path)]
    made = parse([PretrainArguments], given, description="")
    assert (made.max_steps, made.num_train_epochs) == (steps, passes)


def test_a_recipe_that_is_named_again_counts_where_it_stands_last(recipe, tmp_path):
    from hugcoder.pretraining.arguments import PretrainArguments

    steps, passes = (
        recipe("max_steps: 3", "my line a.yaml"),
        recipe("num_train_epochs: 2", "b.yaml"),
    )
    words = [steps, passes, steps, "--output_dir", str(tmp_path)]
    assert parse([PretrainArguments], words, description="").max_steps == 3


def test_the_home_folder_is_meant_where_no_shell_has_seen_it(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse([More], ["--output_dir=~/run"], description="").output_dir == f"{tmp_path}/run"
    assert parse([More], [recipe("output_dir: ~/run")], description="").output_dir == (
        f"{tmp_path}/run"
    )


@pytest.mark.parametrize("value", ["", "  "])
def test_an_output_folder_without_a_name_is_refused(value):
    """Symptom: --output_dir "$UNSET" meant the working folder."""
    with pytest.raises(Refusal, match="output_dir is empty"):
        parse([More], [f"--output_dir={value}"], description="")


def test_an_empty_value_is_not_called_true_and_a_lone_dash_is_suggested_nothing():
    with pytest.raises(Refusal, match=r"invalid int value: '' \(--num_rows  comes from"):
        parsed("--num_rows=")
    with pytest.raises(Refusal, match="See --help"):
        parsed("--")


@pytest.mark.parametrize(
    "before", ["--spans=a=1", "--is_packed", "--num_rows=4"], ids=["list", "switch", "number"]
)
def test_a_recipe_behind_a_flag_is_told_where_it_belongs(recipe, before):
    """Symptom: the flag took it for its value, and a setting that it holds was called missing."""
    name = before.partition("=")[0]
    with pytest.raises(Refusal, match=f"recipe.yaml stands after {name}; recipes come first"):
        parsed(*before.split("=", 1), recipe("num_rows: 9"))
