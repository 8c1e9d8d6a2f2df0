"""The measuring of python -m evaluation against oracles, with a tiny random model."""

import gzip
import lzma
import math
import subprocess

import numpy as np
import pytest
import torch
from conftest import corpus_row, write_shards
from evaluation_fixtures import CONTEXT, tiny_llama

from evaluation import (
    bits_per_byte,
    bootstrap,
    documents,
    ends,
    floors,
    infilling,
    middles,
    ngram,
    silence,
    spans,
)
from evaluation.documents import Document
from evaluation.likelihood import score
from evaluation.spans import BenchmarkSpan
from evaluation.training_split import read_training_split
from hugcoder.data.corpus import HELD_OUT, TRAIN, manifest_of, plural_of, read_corpus
from hugcoder.data.holes import KINDS, MAX_LINES, QUIET
from hugcoder.data.training_data import training_data
from hugcoder.files import write_json
from hugcoder.generation import decoding
from hugcoder.generation.loading import CheckpointCodec
from hugcoder.generation.prompts import infill_prompt, trim_context
from hugcoder.refusal import Refusal
from tokenizer.sample import plan_sample


@pytest.fixture(scope="module")
def codec(tokenizer):
    return CheckpointCodec(tokenizer)


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture(scope="module")
def held_out(corpus):
    return documents.choose_documents(corpus, 20, 60_000, 20_000, seed=0)


@pytest.fixture(scope="module")
def training(corpus, codec):
    return read_training_split(corpus, codec, 300_000, seed=0)


@pytest.fixture(scope="module")
def some_spans(held_out):
    return [span for kind in KINDS for span in spans.choose_spans(held_out, kind, 8, seed=0)]


def nats_of(model, ids):
    """Plain nats of tokens 1.. of one sequence."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].double()
    targets = torch.tensor(ids[1:])[:, None]
    return -logits.log_softmax(-1).gather(1, targets)[:, 0].numpy()


def healed_nats_of(model, prompt, answer, allowed):
    """Nats of an answer behind a prompt, the first token among those that are possible."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0].double()
    logits = logits[len(prompt) - 1 : -1].clone()
    forbidden = [index for index in range(logits.shape[1]) if index not in set(allowed.tolist())]
    logits[0, forbidden] = -torch.inf
    return -logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0].numpy()


def uniform_llama():
    """A model that thinks every token equally likely."""
    model = tiny_llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    return model


# ---- likelihood and bits per byte ----------------------------------------------------------------


def test_batched_scores_equal_each_sequence_alone(model):
    rng = np.random.default_rng(0)
    lengths = [2, 100, 3, 57, 100, 31, 2]
    sequences = [rng.integers(0, 1024, size=n).tolist() for n in lengths]
    firsts = [1, 50, 2, 1, 99, 30, 1]
    got = score(model, sequences, firsts, batch_tokens=210)
    for ids, first, scored in zip(sequences, firsts, got, strict=True):
        expected = nats_of(model, ids)[first - 1 :]
        np.testing.assert_allclose(scored.nats, expected, rtol=1e-4, atol=1e-5)
        likeliest = [*ids[:first], int(scored.likeliest[0])]
        every = [nats_of(model, [*ids[:first], other])[-1] for other in (ids[first], 7, 99)]
        assert nats_of(model, likeliest)[-1] <= min(every)


def test_a_file_shorter_than_the_context_costs_its_plain_likelihood(model, codec):
    text = "def add(a, b):\n    return a + b\n"
    (ids,) = codec.encode([text])
    expected = math.log2(1024) + nats_of(model, ids).sum() / math.log(2)
    assert bits_per_byte.document_bits(model, codec, [text], 4096)[0] == pytest.approx(expected)


def test_sliding_windows_equal_one_window_a_token(codec, held_out):
    model = tiny_llama(context=16)
    text = held_out[0].text[:240]
    (ids,) = codec.encode([text])
    assert len(ids) > 40
    bits = math.log2(1024)
    for token in range(1, len(ids)):
        # The window that scores a token starts at a multiple of half a context, or ends with the
        # file when that leaves the window short.
        first = 0 if token < 16 else 8 * ((token - 16) // 8 + 1)
        first = min(first, max(len(ids) - 16, 0))
        bits += nats_of(model, ids[first : token + 1])[-1] / math.log(2)
    assert bits_per_byte.document_bits(model, codec, [text], 4096)[0] == pytest.approx(bits)


@pytest.mark.parametrize("context", [2, 7, 16, 64])
@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 63, 64, 200])
def test_windows_score_each_token_once_with_half_a_context_before_it(num_tokens, context):
    scored = []
    for start, first, stop in bits_per_byte.windows(num_tokens, context):
        assert 0 < stop - start <= context
        assert first - start >= min(first, context - context // 2)
        scored += range(first, stop)
    assert scored == list(range(1, num_tokens))


def test_a_uniform_model_costs_log2_of_the_vocabulary_a_token(codec, held_out):
    texts = [document.text[:3000] for document in held_out[:4]]
    bits = bits_per_byte.document_bits(uniform_llama(), codec, texts, 4096)
    num_tokens = [len(ids) for ids in codec.encode(texts)]
    np.testing.assert_allclose(bits, 10.0 * np.array(num_tokens), rtol=1e-5)


def test_bits_are_pooled_over_files_and_parts_add_up(model, codec, held_out):
    result = bits_per_byte.measure(model, codec, held_out, 8192, seed=0)
    bits = bits_per_byte.document_bits(model, codec, [d.text for d in held_out], 8192)
    total = sum(len(document.text.encode()) for document in held_out)
    assert result["model"]["value"] == pytest.approx(bits.sum() / total)
    assert result["bytes"] == total == sum(p["bytes"] for p in result["by_repository"].values())
    for part in ("by_language", "by_repository"):
        for name in ("value", "gzip", "xz"):
            pooled = sum(p[name] * p["bytes"] for p in result[part].values()) / total
            whole = result["model" if name == "value" else name]["value"]
            assert pooled == pytest.approx(whole)


def test_a_file_with_a_literal_end_token_costs_bits_for_its_characters(codec):
    text = "x = '<|endoftext|>'\n"
    bits = bits_per_byte.document_bits(uniform_llama(), codec, [text], 4096)[0]
    assert bits > 10 * 6


# ---- true middles --------------------------------------------------------------------------------


@pytest.mark.parametrize("max_prompt_tokens", [CONTEXT - 48, 100, CONTEXT])
def test_middles_are_scored_after_the_prompt_that_generation_gives(
    model, codec, some_spans, max_prompt_tokens
):
    taken = some_spans[::4]
    scores = middles.score_middles(model, codec, taken, max_prompt_tokens, 4096)
    end = codec.fim_ids.end
    for place, span in enumerate(taken):
        prefix, middle, suffix = codec.encode([span.prefix, span.truth, span.suffix])
        room = min(max_prompt_tokens, CONTEXT - len(middle) - 1)
        answer = codec.healing.written(span.prefix, span.truth, prefix[-1:])
        allowed = codec.healing.allowed(codec.token_bytes[prefix[-1]])
        for way in ("psm", "spm"):
            prompt = infill_prompt(codec, span.prefix, span.suffix, way, room)
            assert prompt.last == prefix[-1:]
            nats = healed_nats_of(model, prompt.ids, [*answer, end], allowed)
            assert scores.bits[way][place] == pytest.approx(nats[:-1].sum() / math.log(2), rel=1e-4)
            assert scores.end_nats[way][place] == pytest.approx(nats[-1], rel=1e-4)
        kept, own = trim_context(prefix, suffix, room - 3)
        (foreign,) = codec.encode([taken[(place + len(taken) // 2) % len(taken)].suffix])
        for way, order in middles.FOREIGN.items():
            ids = codec.fim_ids.prompt(kept[:-1], foreign[: len(own)], order)
            nats = healed_nats_of(model, ids, [*answer, end], allowed)
            assert scores.end_nats[way][place] == pytest.approx(nats[-1], rel=1e-4)
        befores = {"prefix_only": kept, "longest_prefix": prefix[-room:]}
        for way, before in befores.items():
            nats = healed_nats_of(model, before[:-1], answer, allowed)
            assert scores.bits[way][place] == pytest.approx(nats.sum() / math.log(2), rel=1e-4)


def test_suffix_gain_is_the_difference_of_the_pooled_bits(model, codec, some_spans, training):
    result = middles.measure(model, codec, some_spans, training, CONTEXT - 48, 4096, seed=0)
    for part in (result, *result["by_kind"].values()):
        gain = part["prefix_only"]["value"] - part["psm"]["value"]
        assert part["gain_psm"]["value"] == pytest.approx(gain)
        percent = 100 * gain / part["prefix_only"]["value"]
        assert part["gain_psm_percent"]["value"] == pytest.approx(percent)
        assert 0 < part["stop"]["psm"]["probability"]["value"] < 1
    assert sum(part["spans"] for part in result["by_kind"].values()) == len(some_spans)


def test_a_model_that_ignores_its_context_gains_nothing_from_the_suffix(
    codec, some_spans, training
):
    measured = middles.measure
    result = measured(uniform_llama(), codec, some_spans, training, CONTEXT - 48, 4096, seed=0)
    assert result["gain_psm"]["value"] == pytest.approx(0, abs=1e-6)
    for way in (*middles.FIM_WAYS, *middles.FOREIGN):
        assert result["stop"][way]["nats"]["value"] == pytest.approx(math.log(1024), rel=1e-5)


def test_spans_whose_middle_takes_more_than_half_the_context_are_left_out(codec, some_spans):
    lengths = [len(ids) for ids in codec.encode([span.truth for span in some_spans])]
    limit = sorted(lengths)[len(lengths) // 2]
    kept = middles.fitting_spans(some_spans, codec, 2 * limit)
    assert len(kept) == sum(length <= limit for length in lengths) < len(some_spans)


def test_a_middle_is_as_probable_as_its_bits_say(model, codec, some_spans, training):
    one = [some_spans[0]]
    result = middles.measure(model, codec, one, training, CONTEXT - 48, 4096, seed=0)
    for way in (*middles.FIM_WAYS, "ngram"):
        filled, end = result["filled"][way], result["stop"][way]["nats"]["value"] / math.log(2)
        assert filled["bits"]["value"] == pytest.approx(filled["middle_bits"]["value"] + end)
        assert filled["probability"]["value"] == pytest.approx(2.0 ** -filled["bits"]["value"])
        num_bytes = len(one[0].truth.encode())
        assert filled["middle_bits"]["value"] == pytest.approx(result[way]["value"] * num_bytes)
    for way in middles.FIM_WAYS:
        assert sum(share["value"] for share in result["filled"][way]["first"].values()) == 1


@pytest.mark.parametrize("name", ["end", "middle", None])
def test_what_an_answer_begins_with_is_told_apart(codec, some_spans, name):
    """A uniform model takes the first token that may come first, then the one it prefers."""
    model = uniform_llama()
    index = {"end": codec.fim_ids.end, "middle": codec.fim_ids.sentinels["m"], None: 300}[name]
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
    model.lm_head.bias.data[index] = 1.0
    prompts = [infill_prompt(codec, s.prefix, s.suffix, "spm", 100) for s in some_spans]
    scored = middles.score_answers(model, codec, middles.empty_answers(codec, prompts), 4096)
    found = middles.first_tokens(codec, prompts, scored)
    kind = {"end": "end", "middle": "sentinel", None: "text"}[name]
    for prompt, what in zip(prompts, found, strict=True):
        first = codec.healing.allowed(codec.healing.beginning(prompt.last)).min()
        assert what == (kind if [first] == prompt.last else "text")
    assert kind in found


# ---- silence -------------------------------------------------------------------------------------


def test_pairs_look_alike_to_who_sees_two_characters(held_out):
    pairs = spans.choose_pairs(held_out, 80, seed=0)
    shown, quiet = pairs[0::2], pairs[1::2]
    assert len(shown) == len(quiet) == 40
    for one, other in zip(shown, quiet, strict=True):
        assert one.document is other.document
        assert (one.prefix[-1], one.suffix[0]) == (other.prefix[-1], other.suffix[0])
        assert one.truth.strip()
        assert other.truth == ""
        assert not one.start <= other.start <= one.stop
    assert spans.digest(pairs) == spans.digest(spans.choose_pairs(held_out, 80, seed=0))


def test_a_rule_that_sees_two_characters_is_at_chance(model, codec, held_out):
    pairs = spans.choose_pairs(held_out, 80, seed=0)
    result = silence.measure(model, codec, pairs, CONTEXT - 48, 4096, seed=0)
    assert result["spans"] == 80
    assert result["floors"]["two_characters"]["right"]["value"] == pytest.approx(0.5)
    # without the pairing the same rule is right most of the time
    places = [BenchmarkSpan(QUIET, s.document, s.start + 1, s.start + 1) for s in pairs[0::2]]
    unmatched = [*pairs[0::2], *places]
    right = silence.two_characters(unmatched) == [s.kind == QUIET for s in unmatched]
    assert right.mean() > 0.7


def test_a_model_that_always_ends_is_quiet_and_shows_nothing(codec, held_out, monkeypatch):
    pairs = spans.choose_pairs(held_out, 40, seed=0)
    always = uniform_llama()
    always.lm_head.bias = torch.nn.Parameter(torch.zeros(always.config.vocab_size))
    always.lm_head.bias.data[codec.fim_ids.end] = 5.0
    only_last = lambda beginning: np.array([codec.token_bytes.index(beginning)])  # noqa: E731
    monkeypatch.setattr(codec.healing, "allowed", only_last)
    result = silence.measure(always, codec, pairs, CONTEXT - 48, 4096, seed=0)
    assert (result["psm"]["quiet"]["value"], result["psm"]["show"]["value"]) == (1, 0)


def test_the_readiness_to_end_that_keeps_most_holes_answered(held_out):
    pairs = spans.choose_pairs(held_out, 40, seed=0)
    nats = np.linspace(0, 1, len(pairs))
    is_silent = nats < silence.kept_threshold(pairs, nats)
    shown = is_silent[0::2]
    assert shown.sum() == 2  # of 20: show stays at 90 %, and one more would break it


# ---- the training split's floors -----------------------------------------------------------------


def test_ngram_probabilities_equal_counting_by_hand():
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 6, size=rng.integers(1, 40)).tolist() for _ in range(30)]
    model = ngram.NgramModel(texts, vocab_size=7, separator=0)
    flat = [index for text in texts for index in (*text, 0)]

    def by_hand(history, index):
        probability = 1 / 7
        for order in range(1, min(ngram.ORDER, len(history) + 1) + 1):
            known = tuple(history[len(history) - order + 1 :])
            places = range(len(flat) - order + 1)
            after = [flat[i + order - 1] for i in places if tuple(flat[i : i + order - 1]) == known]
            if after:
                left = ngram.DISCOUNT * len(set(after)) / len(after)
                seen = max(after.count(index) - ngram.DISCOUNT, 0) / len(after)
                probability = seen + left * probability
        return probability

    ids = rng.integers(1, 6, size=20).tolist()
    for first in (1, 3, 8):
        expected = [by_hand(ids[:place], ids[place]) for place in range(first, len(ids))]
        np.testing.assert_allclose(model.probabilities(ids, first), expected)
    assert sum(model.probabilities([*ids, index], 20)[0] for index in range(7)) == pytest.approx(1)


def test_the_ngram_floor_writes_what_it_has_read_and_stops_at_the_suffix(codec):
    text = "class Reader:\n    def close(self):\n        self.file.close()\n"
    model = ngram.NgramModel(codec.encode([text]), codec.vocab_size, codec.fim_ids.end)
    before, after = text.split(".file.close()")  # behind "self", so that the seam is a token's
    assert model.fill(codec, before, after, 20) == ".file.close()"
    assert model.fill(codec, before, "()" + after, 20) == ".file.close"
    assert model.fill(codec, before, "nowhere", 20) == ".file.close()"


def test_a_share_of_the_training_split_is_read_and_its_lines_are_known(corpus, codec, training):
    whole = read_training_split(corpus, codec, 10**9, seed=0)
    assert whole.share == 1
    assert training.share < 1
    assert len(training.lines) < len(whole.lines)
    row = next(read_corpus(corpus, TRAIN, ("content",)))
    line = max(row["content"].split("\n"), key=len)
    assert not whole.is_new(line)
    assert whole.is_new(line + " and more")
    assert not whole.is_new("x = 1")  # too short to matter


# ---- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "lengths"),
    [(256, [64, 128, 200, 256]), (100, [64, 100]), (64, [64]), (768, [64, 128, 200, 512, 768])],
)
def test_units_have_the_lengths_of_prompts_up_to_the_context(context, lengths):
    assert ends.lengths_up_to(context) == lengths


def test_the_end_is_scored_behind_the_true_middle_of_a_unit_of_each_length(
    model, codec, some_spans
):
    found = ends.measure(model, codec, some_spans, 4096, seed=0)
    end = codec.fim_ids.end
    for order in ("psm", "spm"):
        means = []
        for length in (64, 128, 200, 256):
            probabilities = []
            for span in some_spans:
                prefix, suffix = codec.encode([span.prefix, span.suffix])
                answer = codec.healing.written(span.prefix, span.truth, prefix[-1:])
                if len(answer) > 64 - 16 or len(prefix) + len(suffix) + 3 < 256 - len(answer):
                    continue  # the same holes at every length
                prompt = infill_prompt(codec, span.prefix, span.suffix, order, length - len(answer))
                assert len(prompt.ids) + len(answer) + 1 == length
                nats = nats_of(model, [*prompt.ids, *answer, end])
                probabilities.append(math.exp(-nats[-1]))
            part = found[order]["by_length"][str(length)]
            assert part["spans"] == len(probabilities) > 3
            assert part["probability"]["value"] == pytest.approx(np.mean(probabilities), rel=1e-4)
            means.append(np.mean(probabilities))
        assert found[order]["spread"] == pytest.approx(max(means) - min(means), rel=1e-3)


def test_a_model_that_knows_nothing_of_lengths_has_no_spread(codec, some_spans):
    found = ends.measure(uniform_llama(), codec, some_spans, 4096, seed=0)
    assert found["psm"]["spread"] == pytest.approx(0, abs=1e-6)
    short = [BenchmarkSpan("single_line", PYTHON, 10, 15)]
    assert ends.measure(uniform_llama(), codec, short, 4096, seed=0)["psm"]["spread"] is None


# ---- documents and spans -------------------------------------------------------------------------


def test_only_held_out_repositories_are_chosen_and_they_take_turns(corpus):
    chosen = documents.choose_documents(corpus, 6, 200_000, 40_000, seed=0)
    assert [document.repo for document in chosen[:4]].count("html") == 2
    assert {document.repo for document in chosen} == {"concurrent", "html"}


def test_the_choice_repeats_and_follows_the_seed(corpus):
    def paths(seed):
        return [d.path for d in documents.choose_documents(corpus, 4, 200_000, 40_000, seed)]

    assert paths(0) == paths(0)
    assert any(paths(0) != paths(seed) for seed in range(1, 6))


def test_files_and_bytes_stay_under_their_limits(corpus):
    chosen = documents.choose_documents(corpus, 100, 20_000, 10_000, seed=0)
    assert sum(len(document.text.encode()) for document in chosen) <= 20_000
    assert max(len(document.text.encode()) for document in chosen) <= 10_000


def test_a_corpus_without_a_small_enough_file_is_refused(corpus, tmp_path):
    with pytest.raises(Refusal, match="held-out files and none of 1 to 3 bytes"):
        documents.choose_documents(corpus, 10, 1000, 3, seed=0)
    with pytest.raises(Refusal, match="is not a complete corpus"):
        documents.choose_documents(tmp_path, 10, 1000, 1000, seed=0)


@pytest.mark.parametrize(("by", "num_units"), [("repository", 1), ("folder", 3), ("file", 6)])
def test_intervals_are_over_what_the_corpus_holds_out(tmp_path, by, num_units):
    """Symptom: of one repository that is split by folder, no score had an interval."""
    rows = [
        corpus_row("one", f"{place}/{n}.py", f"x = {place!r}, {n}\n")
        for place in "abc"
        for n in (1, 2)
    ]
    folder = write_shards(tmp_path / "corpus", {TRAIN: [], HELD_OUT: [rows]})
    manifest = manifest_of(folder) | {"held_out_by": by}
    write_json(folder / "manifest.json", manifest)
    chosen = documents.choose_documents(folder, 20, 1000, 1000, seed=0)
    assert len({document.unit for document in chosen}) == num_units
    assert len({document.unit for document in chosen[:3]}) == min(num_units, 3)  # they take turns
    sizes = [len(document.text.encode()) + number for number, document in enumerate(chosen)]
    found = bootstrap.mean(sizes, [document.unit for document in chosen], 0)
    assert (found["low"] is None) is (num_units == 1)
    said = training_data([manifest["fingerprint"][:16]], manifest["fingerprint"], by).sentence
    assert f"never on its held-out {plural_of(by)}," in said


def test_a_corpus_that_holds_nothing_out_is_refused_with_the_flags_that_help(tmp_path):
    rows = [corpus_row("one", "a.py", "x = 1\n")]
    folder = write_shards(tmp_path / "corpus", {TRAIN: [rows], HELD_OUT: []})
    with pytest.raises(
        Refusal, match=r"holds nothing out.*--held_out NAME or --held_out_repositor"
    ):
        documents.choose_documents(folder, 20, 1000, 1000, seed=0)
    with pytest.raises(Refusal, match="no text to sample; give --split train, or a corpus"):
        plan_sample(folder, HELD_OUT, 1000, 1000, 0)
    write_json(folder / "manifest.json", manifest_of(folder) | {"held_out_by": "moon"})
    with pytest.raises(Refusal, match="held_out_by is 'moon'"):
        manifest_of(folder)


def test_spans_are_different_and_repeat(held_out):
    for kind in KINDS:
        chosen = spans.choose_spans(held_out, kind, 30, seed=0)
        places = {(s.document.path, s.start, s.stop) for s in chosen}
        assert len(places) == len(chosen) == 30
        assert spans.digest(chosen) == spans.digest(spans.choose_spans(held_out, kind, 30, seed=0))
        assert spans.digest(chosen) != spans.digest(spans.choose_spans(held_out, kind, 30, seed=1))


def test_line_spans_run_from_behind_the_indentation_to_the_end_of_a_line(held_out):
    crlf = Document("a", "b", "c", "0", "x = 1\r\n    y = 22\r\nif z:\r\n    w = 3\r\n" * 5)
    for kind, most in (("single_line", 1), ("multi_line", MAX_LINES)):
        for span in spans.choose_spans([*held_out, crlf], kind, 40, seed=0):
            line_start = span.prefix.rfind("\n") + 1
            assert span.prefix[line_start:].strip() == ""
            assert not span.truth[0].isspace()
            assert span.suffix.startswith(("\n", "\r\n")) or not span.suffix
            assert not span.truth.endswith("\r")
            num_lines = span.truth.count("\n") + 1
            assert num_lines == 1 if most == 1 else 2 <= num_lines <= most


def test_a_file_without_usable_spans_ends_the_search():
    blank = Document("a", "b", "c", "0", "\n\n  \n)\n")
    for kind in ("single_line", "multi_line"):
        assert spans.choose_spans([blank], kind, 10, seed=0) == []


# ---- floors --------------------------------------------------------------------------------------


def test_gzip_and_xz_count_what_the_commands_write(held_out):
    data = held_out[0].text.encode()
    command = subprocess.run(
        ["gzip", "-9", "-n", "-c"], input=data, capture_output=True, check=True
    )
    assert floors.gzip_bits(data) / 8 == pytest.approx(len(command.stdout), rel=0.01)
    compressed = gzip.compress(data, 9, mtime=0)
    assert len(compressed) * 8 == floors.gzip_bits(data)
    assert lzma.decompress(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) == data
    assert 0 < floors.xz_bits(data) < 8 * len(data)


def test_the_copied_line_is_the_last_one_above_that_is_not_blank():
    assert floors.copy_previous_line("a = 1\n    b = 2\n\n    ") == "b = 2"
    assert floors.copy_previous_line("a = 1\nb =") == "a = 1"
    assert floors.copy_previous_line("a = 1") == ""


# ---- infilling scores ----------------------------------------------------------------------------

PYTHON = Document("repo", "a.py", "python", "0", "if a:\n    b = 1\nc = 2\n")
SPAN = BenchmarkSpan("single_line", PYTHON, 10, 15)


def test_a_span_knows_its_parts():
    assert (SPAN.prefix, SPAN.truth, SPAN.suffix) == ("if a:\n    ", "b = 1", "\nc = 2\n")


@pytest.mark.parametrize(
    ("text", "exact", "stripped", "first_line", "length_error", "valid"),
    [
        ("b = 1", 1, 1, 1, 0, 1),
        ("b = 1 ", 0, 1, 1, 1, 1),
        ("b = 1\nd = 3", 0, 0, 1, 6, 1),
        ("b = 2", 0, 0, 0, 0, 1),
        ("", 0, 0, 0, 5, 0),
        ("b = (", 0, 0, 0, 0, 0),
    ],
)
def test_scores_of_a_completion(text, exact, stripped, first_line, length_error, valid):
    scores = infilling.scores_of(SPAN, text, is_python=True)
    names = ("exact_match", "exact_match_stripped", "first_line_match", "length_error")
    expected = (exact, stripped, first_line, length_error)
    assert tuple(scores[name] for name in names) == expected
    assert scores["syntax_valid"] == valid
    assert (scores["edit_similarity"] == 1) == bool(exact)


def test_syntax_is_judged_only_where_the_original_is_valid_python(training):
    broken = Document("repo", "b.py", "python", "1", "def f(:\n    x\n")
    text = Document("repo", "c.md", "markdown", "2", "a = 1\nb = 2\n")
    two = [BenchmarkSpan("random", d, 1, 3) for d in (broken, text)]
    assert infilling.is_valid_python([SPAN, *two]) == [True, False, False]
    nothing = [infilling.Completion("", True)] * 2
    result = infilling.measure(two, nothing, {}, training, seed=0)
    assert "syntax_valid" not in result["model"]
    assert result["python_spans"] == 0


def test_true_middles_score_full_marks(codec, some_spans, training):
    perfect = [infilling.Completion(span.truth, True) for span in some_spans]
    trivial = floors.completions(some_spans, codec, training, 16)
    result = infilling.measure(some_spans, perfect, trivial, training, seed=0)
    assert result["new"]["exact"] == result["new"]["spans"] > 0
    for name in ("exact_match", "edit_similarity", "first_line_match", "syntax_valid", "stopped"):
        assert result["model"][name] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert result["floors"]["empty"]["exact_match"]["value"] == 0
    assert 0 < result["floors"]["copy_previous_line"]["edit_similarity"]["value"] < 0.6


def test_a_scorer_that_passes_wrong_answers_is_refused(some_spans, monkeypatch):
    infilling.check_scorer(some_spans)
    monkeypatch.setattr(infilling.fuzz, "ratio", lambda a, b: 100)
    with pytest.raises(Refusal, match="the scorer is broken"):
        infilling.check_scorer(some_spans)


def test_completions_come_back_in_the_order_of_the_spans(model, codec, some_spans):
    got = infilling.complete_spans(model, codec, some_spans, "psm", 12, batch_tokens=1500)
    ending = decoding.ending_of(model, codec)
    stops = ending.stops
    for span, completion in list(zip(some_spans, got, strict=True))[::5]:
        prompt = infill_prompt(codec, span.prefix, span.suffix, "psm", CONTEXT - 12)
        beginning = codec.healing.beginning(prompt.last)
        must = decoding.Must(codec.healing, [beginning])
        ids = list(decoding.stream_tokens(model, prompt.ids, ending, 13, must=must))
        assert completion.stopped == (ids[-1] in stops)
        text = codec.decode_bytes(i for i in ids if i not in stops)
        assert text.startswith(beginning)
        assert completion.text == text[len(beginning) :].decode(errors="replace")


# ---- bootstrap -----------------------------------------------------------------------------------


def test_the_interval_of_a_constant_has_no_width():
    repos = ["a", "a", "b", "c", "c", "c"]
    assert bootstrap.mean([0.3] * 6, repos, 0) == pytest.approx(
        {"value": 0.3, "low": 0.3, "high": 0.3}
    )


def test_the_value_is_pooled_not_a_mean_of_repositories():
    assert bootstrap.estimate([1, 8], [1, 4], ["a", "b"], 0)["value"] == 9 / 5


def test_one_repository_gives_no_interval():
    got = bootstrap.estimate([1, 2], [1, 1], ["a", "a"], 0)
    assert got == {"value": 1.5, "low": None, "high": None}


def test_nothing_gives_no_value():
    assert bootstrap.mean([], [], 0) == {"value": None, "low": None, "high": None}


def test_repositories_are_resampled_not_observations():
    rng = np.random.default_rng(0)
    repos = [f"r{i // 50}" for i in range(1000)]
    levels = np.repeat(rng.normal(size=20), 50)  # all that varies is between repositories
    got = bootstrap.mean(levels.tolist(), repos, 0)
    width = got["high"] - got["low"]
    standard_error = levels[::50].std() / math.sqrt(20)
    assert width == pytest.approx(2 * 1.96 * standard_error, rel=0.15)
