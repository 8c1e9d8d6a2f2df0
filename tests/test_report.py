"""The report of a run: its numbers are the inputs', it is safe, and it names what is missing."""

import html
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
from report_inputs import HOSTILE, corpus_manifest, estimate, hole, metrics, results

from evaluation import page, plots, report_samples, report_training
from evaluation.__main__ import main as evaluation_main
from evaluation.report import main
from evaluation.report_scores import compare
from evaluation.run_files import read_run
from hugcoder.data.codec import Codec
from hugcoder.files import write_json
from hugcoder.model.manifest import complete
from hugcoder.refusal import Refusal


@pytest.fixture(scope="module")
def whole_run(tokenizer, tmp_path_factory):
    """A finished and evaluated run with corpus and token store."""
    root = tmp_path_factory.mktemp("whole")
    run, store, corpus = root / "tiny run", root / "tokens", root / "corpus"
    write_json(corpus / "manifest.json", corpus_manifest())
    sizes = {"documents": 666, "tokens": 2_000_000, "bytes": 6_160_000}
    sizes |= {"shards": []}
    manifest = {"kind": "token_store", "format": 1, "dtype": "uint16", "corpus": str(corpus)}
    manifest |= {"tokenizer_sha256": "a" * 64, "corpus_fingerprint": "c" * 64}
    write_json(store / "manifest.json", manifest | {"splits": {"train": sizes, "held_out": sizes}})
    measured = {"vocab_size": 4321, "vocabulary_used": 0.912, "split": "held_out"}
    measured |= {"all": {"bytes": 840_000}, "macro": {"tokens_per_unit": 1.87}}
    write_json(store / "tokenizer" / "measure.json", measured | {"round_trip_failures": 0})
    write_json(
        run / "run.json",
        {
            **{"started": "2026-01-02T03:04:05+0000", "command": "train.py a.yaml --seed 3"},
            "arguments": {
                "ModelArguments": {"config_file": "tiny.json"},
                "DataArguments": {
                    **{"token_store": str(store), "max_seq_length": 384, "fim_rate": 0.5},
                    "held_out_rows": 19,
                },
                "PretrainArguments": {"lr_scheduler_type": "cosine", "use_cpu": True},
            },
            "identity": {"tokenizer": "a" * 16, "corpus": "c" * 16},
            **{"parameters": 3_141_592, "embedding_parameters": 271_828},
            **{"flops_per_token": 1.5e7, "tokens_per_step": 1000, "max_steps": 300},
            **{"data": "rows", "commit": "abcdef123456", "versions": {"torch": "2.13.0"}},
            "host": {"cpus": 3, "machine": "x86_64"},
        },
    )
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics()))
    config = {"model_type": "qwen3", "num_hidden_layers": 5, "hidden_size": 96}
    write_json(run / "model" / "config.json", config)
    shutil.copy(tokenizer / "tokenizer.json", run / "model")
    complete(run / "model", {"step": 300})
    write_json(run / "evaluation" / "results.json", results())
    return run


@pytest.fixture
def run(whole_run, tmp_path):
    """A copy that a test may damage; it still points to the shared store and corpus."""
    return shutil.copytree(whole_run, tmp_path / "tiny run")


@pytest.mark.parametrize("is_same", [True, False])
def test_a_tokenizer_that_was_measured_before_the_corpus_was_tokenized_is_found(
    run, tmp_path, is_same
):
    record = json.loads((run / "run.json").read_text())
    before = Path(record["arguments"]["DataArguments"]["token_store"])
    store = shutil.copytree(before, tmp_path / "tokens")
    record["arguments"]["DataArguments"]["token_store"] = str(store)
    write_json(run / "run.json", record)
    measured = json.loads((store / "tokenizer" / "measure.json").read_text())
    shutil.rmtree(store / "tokenizer")
    measured["tokenizer_sha256"] = "a" * 64 if is_same else "b" * 64
    write_json(tmp_path / "tokenizer" / "measure.json", measured)
    manifest = json.loads((store / "manifest.json").read_text())
    write_json(store / "manifest.json", manifest | {"tokenizer": str(tmp_path / "tokenizer")})
    text = report_of(run)
    assert ("A vocabulary of 4,321 tokens" in text) is is_same
    assert ("python -m tokenizer measure" in text) is not is_same


def report_of(run, *words):
    main([str(run), *words])
    return (run / "report.html").read_text(encoding="utf-8")


def text_of(report):
    """What a reader sees: no markup, no style, no drawings."""
    bare = re.sub(r"<(style|svg).*?</\1>|<[^>]+>", " ", report, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(bare))


def edit(run, name, change):
    value = json.loads((run / name).read_text())
    change(value)
    write_json(run / name, value)


def test_the_page_says_what_the_inputs_say(run):
    text = text_of(report_of(run))
    for words in (
        "tiny run",
        "3.14M parameters (qwen3, 5 layers, 96 wide, reading 384 tokens at once)",
        "trained from random weights on 6.16 MB of python from 1 repositories",
        "300k 300 steps of 1,000, padding included; 0.15 times the corpus",
        "10 min 00 s 500 tokens per second on 3 CPU cores",  # 300 x 1000 / 500 s
        "1.357 gzip 2.468, xz 2.579: better than both",
        "17.3 % of bits (PSM) 95 %: 14.8 to 19.8; the text after is used",
        "12.7 % 95 %: 11.7 to 13.7; 3.7 % for writing the line above: above the floor",
        "2.600 (left to right), 2.800 (middle), 2.700 (all tokens)",
        "1.900 (whole), 2.050 (middle)",
        "1,000 files (9.00 MB) were read; 777 (7.00 MB) were kept",
        "not utf8 left/latin.py 223 22.3 % 2.00 MB",
        "python 666 6.16 MB 100.0 % 111 840 kB",
        "held-out 666 2.00M 3.08",  # 6.16 MB / 2M
        "4 more 10 9.5 %",  # licences 1 to 4 of 105
        "1 to train on, 1 held out",
        "vocabulary of 4,321 tokens, 91.2 % of it used",
        "0.4 -1.6 to 2.4",
        "this model 12.7 11.7 to 13.7",
        "28.6 25.6 to 31.6",
        "train.py a.yaml --seed 3",
        "torch version 2.13.0",
    ):
        assert words in text, words
    assert "Not here" not in text


def test_no_part_keeps_a_figure_when_its_input_changes(run):
    before = text_of(report_of(run))

    def change(value):
        value["bits_per_byte"]["model"] = estimate(2.911, 0.1)
        value["middle_bits_per_byte"]["gain_psm_percent"] = estimate(-5.5, 1.0)
        for kind in value["infilling"].values():
            kind["model"]["exact_match"] = estimate(0.037, 0.01)

    edit(run, "evaluation/results.json", change)
    after = text_of(report_of(run))
    old_and_new = {"better than both": "worse than both", "text after is used": "after does harm"}
    old_and_new |= {"above the floor": "not clearly above the floor", "17.3 %": "-5.5 %"}
    for old, new in old_and_new.items():
        assert old in before
        assert new not in before
        assert new in after
    assert "1.357 gzip" not in after


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(run):
    report = report_of(run)
    assert not re.search(r'(src|href|srcset|action|data)="(?!#)', report, re.IGNORECASE)
    assert not re.search(r"https?://|url\((?!#)|@import|<script|<iframe|<link", report)
    assert not re.search(r"<[^>]*\son\w+=", report)
    assert "default-src 'none'; style-src 'unsafe-inline'" in report


def test_hostile_content_is_shown_and_not_obeyed(run):
    texts = dict.fromkeys(("prefix", "truth", "generated", "suffix"), HOSTILE)

    def change(value):
        value["samples"] = [hole("random", HOSTILE, **texts)]
        value["bits_per_byte"]["by_repository"] = {
            HOSTILE[:60]: value["bits_per_byte"]["by_repository"]["left"]
        }

    edit(run, "evaluation/results.json", change)
    edit(run, "run.json", lambda value: value.update(command=HOSTILE, commit=HOSTILE))
    report = report_of(run)
    assert "<script" not in report
    assert "<img" not in report
    assert report.count(html.escape(HOSTILE)) >= 8
    assert text_of(report).count(HOSTILE) >= 8


def test_the_shown_program_prompts_as_generation_does(run, tokenizer):
    from tokenizers import Tokenizer

    program = report_training.snippet(str(run / "model"))
    compile(program, "snippet", "exec")
    assert html.escape(program) in report_of(run)
    names = {}
    lines = [line for line in program.splitlines() if line.startswith(("before", "prompt"))]
    exec("\n".join(lines), names)
    shown = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode(names["prompt"]).ids
    codec = Codec(tokenizer)
    before, after = codec.encode([names["before"], names["after"]])
    assert shown == codec.fim_ids.prompt(before, after, "psm")


def test_unseen_characters_are_spelled_out():
    assert page.safe("a\u202eb\x00\ud800\r\n") == "a\\u202eb\\u0000\\ud800\n"


def test_the_browser_keeps_the_first_newline_of_a_sample(run):
    edit(
        run,
        "evaluation/results.json",
        lambda value: value.update(samples=[hole("random", "a.py", prefix="\n    x")]),
    )
    assert "<pre>\n\n    x<mark>" in report_of(run)


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        ("evaluation/results.json", "Not here: scores and samples. python -m evaluation"),
        ("metrics.jsonl", "Not here: the curves, because nothing has been logged yet"),
        ("model/manifest.json", "This run is not finished: step 300 of 300"),
    ],
)
def test_a_missing_part_is_named_with_what_makes_it(run, absent, words):
    (run / absent).unlink()
    assert words in text_of(report_of(run))


def test_missing_data_is_named_with_what_makes_it(run, whole_run):
    def elsewhere(record):
        record["arguments"]["DataArguments"]["token_store"] = "gone/tokens"

    edit(run, "run.json", elsewhere)
    text = text_of(report_of(run))
    assert "Not here: where the files came from, because the corpus is not at hand" in text
    assert "because the token store gone/tokens is not at hand" in text
    text = text_of(report_of(run, "--corpus", str(whole_run.parent / "corpus")))
    assert "777 (7.00 MB) were kept" in text


OTHER = {
    **{"kind": "humaneval", "model": "tiny run", "samples": [], "seconds": 75.0},
    "settings": {"temperature": 0.213, "tokenizer": "a" * 64},
    "scores": {
        "pass_at_1": estimate(0.127, 0.044),
        HOSTILE[:60]: {"value": 12.345, "low": None, "high": None},
    },
}


def test_a_measurement_that_the_report_does_not_know_shows_its_scores(run):
    before = report_of(run)
    write_json(run / "evaluation" / "humaneval.json", OTHER)
    after = report_of(run)
    text = text_of(after)
    command = "python -m evaluation humaneval"
    assert f"Scores of humaneval What `{command}` measured in 1 min 15 s" in text
    assert "pass at 1 0.127 0.083 to 0.171" in text
    assert "12.345 \N{EN DASH}" in text
    assert "temperature 0.213" in text
    assert "<script" not in after
    (added,) = re.findall(r"<section><h2>Scores of humaneval</h2>.*?</section>", after, re.DOTALL)
    assert after.replace(added, "") == before


def test_scores_of_another_model_are_marked_with_what_makes_them_anew(run):
    settings = OTHER["settings"] | {"tokenizer": "b" * 64}
    write_json(run / "evaluation" / "humaneval.json", OTHER | {"settings": settings})
    text = text_of(report_of(run))
    assert f"made with another tokenizer ({'b' * 16}) than the run's ({'a' * 16})" in text
    assert f"python -m evaluation humaneval '{run / 'model'}' makes them anew" in text


def test_other_scores_are_shown_of_a_run_without_held_out_ones(run):
    (run / "evaluation" / "results.json").unlink()
    write_json(run / "evaluation" / "humaneval.json", OTHER)
    text = text_of(report_of(run))
    assert "Not here: scores and samples. python -m evaluation" in text
    assert "pass at 1 0.127 0.083 to 0.171" in text


@pytest.mark.parametrize("kind", [None, "evaluation"])
def test_results_of_before_there_were_kinds_give_the_same_page(run, kind):
    expected = report_of(run)
    old = {name: value for name, value in results().items() if name not in ("kind", "scores")}
    write_json(run / "evaluation" / "results.json", old | ({"kind": kind} if kind else {}))
    assert report_of(run) == expected


def test_a_run_that_only_began_has_a_report(run):
    for name in ("metrics.jsonl", "evaluation", "model"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "step 0 of 300" in text_of(report_of(run))


def test_what_belongs_to_another_run_is_marked(run):
    def change(value):
        value["identity"] = {"tokenizer": "x" * 16, "corpus": "y" * 16}

    assert 'class="warning"' not in report_of(run)
    edit(run, "run.json", change)
    text = text_of(report_of(run))
    assert f"made with another tokenizer ({'a' * 16}) than the run's ({'x' * 16})" in text
    assert f"is another one ({'c' * 16}) than the run's ({'y' * 16})" in text


HELD_OUT_WORDS = re.compile(r"held[- ]out (repositories|bits|files)", re.IGNORECASE)


def words_about_scores(report: str) -> str:
    """The page without the part about the corpus, which has a held-out split whatever is scored."""
    head, _, rest = report.partition("<h2>What it was trained on</h2>")
    return text_of(head + rest.partition("</section>")[2])


def test_scores_on_another_corpus_name_both_and_are_not_called_held_out(run):
    """Symptom: "held out" over files of a corpus whose training repositories they had been."""
    assert len(HELD_OUT_WORDS.findall(words_about_scores(report_of(run)))) == 3
    edit(
        run,
        "evaluation/results.json",
        lambda value: value["settings"].update(corpus_fingerprint="d" * 64),
    )
    text = words_about_scores(report_of(run))
    sentence = f"trained on the corpus {'c' * 16}, and these files are of the corpus {'d' * 16}"
    assert f"Read these scores with care: the model was {sentence}: it is not known" in text
    assert HELD_OUT_WORDS.findall(text) == ["repositories"]  # of the training loop's own rows


@pytest.mark.parametrize("is_told", [True, False])
def test_scores_of_a_continued_model_are_not_called_held_out(run, is_told):
    def change(record):
        record["arguments"]["ModelArguments"] = {"model_name_or_path": "some/base"}
        if is_told:
            record["corpora"] = ["b" * 16, "c" * 16]

    edit(run, "run.json", change)
    text = words_about_scores(report_of(run))
    assert not HELD_OUT_WORDS.search(text)
    told = f"the corpora {'b' * 16} and {'c' * 16}, and these"
    untold = f"the corpus {'c' * 16} and on data that nothing names, and these"
    assert text.count(told if is_told else untold) == 2
    assert "Scores during training" in text


def test_results_that_name_no_corpus_are_shown_and_not_called_held_out(run):
    edit(run, "evaluation/results.json", lambda value: value["settings"].pop("corpus_fingerprint"))
    text = text_of(report_of(run))
    assert "these files are of an unnamed one: it is not known" in text
    assert "1.357 gzip 2.468" in text


def test_a_corpus_that_was_not_trained_on_is_not_what_the_model_was_trained_on(run):
    edit(run, "run.json", lambda value: value["identity"].update(corpus="e" * 16))
    assert "trained from random weights. It continues" in text_of(report_of(run))


@pytest.mark.parametrize("key", ["splits", "licenses", "repositories"])
def test_a_manifest_that_lacks_a_part_is_named(run, tmp_path, key):
    corpus = corpus_manifest()
    del corpus[key]
    write_json(tmp_path / "corpus" / "manifest.json", corpus)
    with pytest.raises(Refusal, match=r"corpus/manifest\.json is damaged \(it lacks"):
        main([str(run), "--corpus", str(tmp_path / "corpus")])


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "token_store", "format": 1}'])
def test_a_damaged_manifest_of_the_store_is_named(run, tmp_path, text):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "manifest.json").write_text(text)

    def elsewhere(record):
        record["arguments"]["DataArguments"]["token_store"] = str(tmp_path / "store")

    edit(run, "run.json", elsewhere)
    with pytest.raises(Refusal, match=r"store/manifest\.json is damaged"):
        main([str(run)])


def test_the_same_files_give_the_same_page_through_the_package(run, tmp_path, capsys):
    first = report_of(run)
    evaluation_main(["report", str(run), "--output", str(tmp_path / "again.html")])
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == first
    assert "again.html written" in capsys.readouterr().out


def test_folders_that_are_held_out_are_named_and_the_repository_is_trained_on(run, tmp_path):
    units = ["left/src", "left/tests"]
    corpus = corpus_manifest() | {"held_out_by": "folder", "held_out_repositories": []}
    folder = tmp_path / "by_folder"
    write_json(folder / "manifest.json", corpus | {"held_out_units": units})
    text = text_of(report_of(run, "--corpus", str(folder)))
    assert "2 to train on, of which 2 folders are held out; a folder is wholly on one" in text
    assert "left/src, left/tests" in text
    write_json(folder / "manifest.json", corpus)
    with pytest.raises(Refusal, match=r"is damaged .*held_out_units"):
        report_of(run, "--corpus", str(folder))


def test_a_long_run_on_a_large_corpus_stays_small(run, tmp_path):
    corpus = corpus_manifest()
    names = [f"organisation-{i}/repository-{i}" for i in range(30_000)]
    corpus["repositories"] = {name: {"files": 1, "bytes": 1} for name in names}
    corpus["held_out_repositories"] = names[::2]
    corpus["languages"]["train"] = {f"l{i}": {"files": 1, "bytes": i} for i in range(500)}
    write_json(tmp_path / "large" / "manifest.json", corpus)
    line = dict.fromkeys(("train/loss", "train/loss_ar", "eval/bits_per_byte"), 2.5)
    with (run / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps({"step": i, **line}) + "\n" for i in range(1, 30_000))

    def change(value):
        part = value["bits_per_byte"]["by_repository"]["left"]
        value["bits_per_byte"]["by_repository"] = dict.fromkeys(names, part)
        value["samples"] = [hole("random", "a.py", prefix="x" * 999_999, truth="y" * 999_999)]

    edit(run, "evaluation/results.json", change)
    assert len(report_of(run, "--corpus", str(tmp_path / "large"))) < 500_000


def test_a_line_that_is_still_being_written_is_left_out(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 400, "train/lo')
    assert read_run(run).num_steps == 300


def test_not_a_number_is_no_point_of_a_curve(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 400, "train/loss": NaN}\n')
    assert read_run(run).series("train/loss")[-1][0] == 300
    assert "nan" not in text_of(report_of(run)).lower()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no run is given; the first word must be a run folder"),
        (["nowhere"], "nowhere is no run folder .* give the --output_dir of a train.py run"),
        (["RUN/model"], "model is no run folder .* give .*tiny run"),
        (["RUN", "--output", "RUN"], "is a folder; name the .html file"),
        (["RUN", "--corpus", "nowhere"], "nowhere is not a complete corpus"),
        (["RUN", "--corpse", "x"], "Did you mean 'corpus'"),
    ],
)
def test_mistakes_end_in_a_sentence(whole_run, words, sentence):
    with pytest.raises(Refusal, match=sentence):
        main([word.replace("RUN", str(whole_run)) for word in words])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("evaluation/results.json", '{"kind": "lm-eval"}', "its kind is 'lm-eval'"),
        ("evaluation/results.json", '{"kind": "evalu', "results.json is damaged"),
        ("evaluation/results.json", '{"kind": "heldout"}', "results.json is damaged"),
        ("evaluation/mbpp.json", '{"kind": "mbpp"}', "mbpp.json is damaged"),
        ("metrics.jsonl", '{"step": 1}\n{"ste\n{"step": 3}\n', "metrics.jsonl line 2 is damaged"),
        ("metrics.jsonl", '{"step": 1}\n[1]\n', "metrics.jsonl line 2 is damaged"),
        ("metrics.jsonl", '{"step": "x", "loss": []}\n', "metrics.jsonl line 1 is damaged"),
        ("run.json", '{"parameters": 1}', "run.json is damaged"),
    ],
)
def test_damaged_files_are_refused_by_name(run, name, content, sentence):
    (run / name).write_text(content)
    with pytest.raises(Refusal, match=sentence):
        main([str(run)])
    assert not (run / "report.html").exists()


def test_samples_are_not_chosen_by_how_they_came_out():
    found = [hole(kind, f"{name}.py") for kind in ("single_line", "random") for name in "abcd"]
    chosen = report_samples.choose_samples(found)
    assert [one["kind"] for one in chosen] == ["single_line", "random"] * 2 + ["single_line"]
    assert len({one["path"] for one in chosen[:4]}) == 4
    flipped = [one | {"exact": True, "generated": "x"} for one in found]
    again = report_samples.choose_samples(flipped)
    assert [one["path"] for one in again] == [one["path"] for one in chosen]
    assert report_samples.choose_samples([]) == []


def test_a_verdict_is_given_only_when_intervals_are_apart():
    assert compare(estimate(2.0, 0.4), estimate(1.0, 0.4)) == 1
    assert compare(estimate(1.0, 0.4), estimate(2.0, 0.4)) == -1
    assert compare(estimate(1.0, 0.6), estimate(2.0, 0.6)) == 0
    assert compare(estimate(1.0, 0.0), {"value": 1.0, "low": None, "high": None}) == 0


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (page.short(0), "0"),
        (page.short(999), "999"),
        (page.short(3_141_592), "3.14M"),
        (page.short(51_234_567, "B"), "51.2 MB"),
        (page.short(7.2e9), "7.20B"),
        (page.percent(0.0001), "<0.1 %"),
        (page.percent(0), "0.0 %"),
        (page.duration(59.4), "59 s"),
        (page.duration(3599.7), "1 h 00 min"),
        (page.duration(100_000), "1 d 3 h"),
    ],
)
def test_numbers_carry_units_and_few_digits(made, expected):
    assert made == expected


def test_names_at_the_ends_of_curves_keep_their_order_and_distance():
    places = [0.5, 0.1, 0.51, 0.49]
    moved = plots.spread(places, 0.1)
    order = sorted(range(4), key=places.__getitem__)
    gaps = [moved[b] - moved[a] for a, b in itertools.pairwise(order)]
    assert min(gaps) >= 0.1 - 1e-9
    assert plots.spread([0.1, 0.9], 0.1) == [0.1, 0.9]


def test_a_thinned_curve_keeps_its_mean_and_its_end():
    points = [(float(i), float(i % 7)) for i in range(1, 3001)]
    thin = plots.thin(points)
    assert len(thin) <= plots.MAX_POINTS
    assert thin[-1][0] == 3000
    mean = sum(value for _, value in points) / len(points)
    assert sum(value for _, value in thin) / len(thin) == pytest.approx(mean)
    assert plots.thin(points[:50]) == points[:50]
