"""Checkpoints, prompts and generation, with a tiny random model; generate.py through its main."""

import itertools
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from evaluation_fixtures import CONTEXT, tiny_gpt2, tiny_llama, write_run
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers import models as tokenizer_models

import generate
from hugcoder.data import fim_formats
from hugcoder.files import MANIFEST, write_json
from hugcoder.generation import decoding
from hugcoder.generation.loading import CheckpointCodec, find_checkpoint, load_checkpoint
from hugcoder.generation.prompts import completion_prompt, infill_prompt, prompt_room, trim_context
from hugcoder.generation.streaming import stream_text
from hugcoder.model import manifest
from hugcoder.refusal import Refusal
from hugcoder.run.export_weights import export_checkpoint

TEXT = 'def read(path):\n    """Read."""\n    return path.read_text() + "\u00e9\u4e16\U0001f600"\n'


@pytest.fixture(scope="module")
def run_folder(tokenizer, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), tokenizer)


@pytest.fixture(scope="module")
def checkpoint(run_folder):
    return load_checkpoint(str(run_folder), "cpu")


def ends_at(stops, forbidden=()):
    return decoding.Ending(frozenset(stops), frozenset(forbidden))


def reference_greedy(model, prompt, ending, max_new_tokens, codec=None, beginning=b""):
    """Greedy generation without a cache: the whole sequence again for each token.

    Only answers that begin with `beginning` are possible.
    """
    ids = list(prompt)
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        allowed = [index for index in range(len(logits)) if index not in ending.forbidden]
        written = codec.decode_bytes(ids[len(prompt) :]) if beginning else b""
        if left := beginning[len(written) :]:
            texts = {i: codec.token_bytes[i] for i in allowed if i < len(codec.token_bytes)}
            allowed = [i for i, t in texts.items() if t and (t + left).startswith(left[: len(t)])]
            allowed = [i for i in allowed if texts[i].startswith(left) or left.startswith(texts[i])]
        ids.append(max(allowed, key=lambda index: float(logits[index])))
        if ids[-1] in ending.stops:
            break
    return ids[len(prompt) :]


# ---- checkpoints ---------------------------------------------------------------------------------


def test_a_run_folder_stands_for_its_model_folder(run_folder):
    assert find_checkpoint(str(run_folder)) == run_folder / "model"
    assert find_checkpoint(str(run_folder / "model")) == run_folder / "model"


def test_a_run_that_has_not_ended_is_refused_with_its_newest_checkpoint(tmp_path):
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        whole = {"files": {}, "checksum": manifest._checksum({"files": {}})}
        write_json(folder / "manifest.json", whole)
    with pytest.raises(Refusal, match=r"has not ended, .* its newest checkpoint: .*checkpoint-10"):
        find_checkpoint(str(tmp_path))
    with pytest.raises(Refusal, match=r"is a run; give one of .* the newest is .*checkpoint-10"):
        export_checkpoint(tmp_path, tmp_path / "exported")


def test_a_folder_without_a_model_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(Refusal, match=r"neither .*config\.json nor .*model/config\.json exists"):
        find_checkpoint(str(tmp_path))
    with pytest.raises(Refusal, match="there is no model at runs/absent"):
        find_checkpoint("runs/absent")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("rums/one/model", "runs/one/model"),
        ("runs/on", "runs/one"),
        ("./runs/one/modle", "runs/one/model"),
        ("runs/one/checkpoint-5", None),
        ("/proc/nowhere/at/all", None),
    ],
)
def test_a_path_with_a_typing_mistake_is_refused_with_the_nearest(
    name, near, tmp_path, monkeypatch
):
    (tmp_path / "runs" / "one" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.getaddrinfo", lambda *words, **more: pytest.fail("asks the hub"))
    with pytest.raises(Refusal, match=f"no model at {name}") as caught:
        load_checkpoint(name)
    assert str(caught.value).partition(" Did you mean ")[2] == (f"{near}?" if near else "")


def test_without_a_network_a_name_of_the_hub_is_refused_soon(tmp_path, monkeypatch):
    asked = []

    def no_network(host, *words, **more):
        asked.append(host)
        raise OSError("Name or service not known")

    (tmp_path / "rund" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    with pytest.raises(Refusal, match=r"hub cannot be reached .*Did you mean rund/model"):
        load_checkpoint("run/model")
    assert 1 <= len(asked) <= 2
    asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Refusal, match=r"no folder run/model, .* HF_HUB_OFFLINE forbids"):
        load_checkpoint("run/model")
    assert not asked


@pytest.mark.parametrize("status", [401, 404])
def test_a_name_that_the_hub_does_not_know_is_refused(status, monkeypatch):
    class Session:
        def head(self, url, **more):
            return type("Answer", (), {"status_code": status})

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    with pytest.raises(Refusal, match=rf"the hub gives no model some/body \(it says {status}\)"):
        load_checkpoint("some/body")


def test_a_name_with_one_slash_and_no_folder_is_a_hub_name():
    assert find_checkpoint("bigcode/starcoder2-3b") is None


def test_a_model_that_cannot_be_loaded_is_refused(run_folder, tmp_path):
    (tmp_path / "config.json").write_text((run_folder / "model" / "config.json").read_text())
    with pytest.raises(Refusal, match=r"cannot be loaded: .*model\.safetensors"):
        load_checkpoint(str(tmp_path), "cpu")


def test_another_models_tokenizer_is_refused(tokenizer, tmp_path):
    folder = write_run(tmp_path, tokenizer) / "model"
    tiny_llama(vocab_size=512).save_pretrained(folder)
    with pytest.raises(Refusal, match="do not belong together"):
        load_checkpoint(str(folder), "cpu")


def test_only_ends_stop_and_sentinels_are_forbidden(checkpoint):
    """Symptom: two thirds of "empty" answers were a sentinel, which counted as a stop."""
    codec = checkpoint[1]
    other = tiny_llama()
    sentinels = {codec.special_ids[f"<fim_{name}>"] for name in ("prefix", "suffix", "middle")}
    other.generation_config.eos_token_id = [99, *sentinels]
    ending = decoding.ending_of(other, codec)
    names = ("<|endoftext|>", "<fim_pad>", "<file_sep>", "<repo_name>")
    assert ending.stops == {99} | {codec.special_ids[name] for name in names}
    assert ending.forbidden == sentinels
    other.generation_config.eos_token_id = 98
    assert 98 in decoding.ending_of(other, codec).stops


def test_a_byte_level_checkpoint_has_no_start_ids(checkpoint):
    assert checkpoint[1].start_ids == []


@pytest.fixture(scope="module")
def spaced_codec(tmp_path_factory):
    """Code Llama's way: spaces written as U+2581, one put before a text, bytes for what is rare."""
    letters = [chr(i) for i in range(0x21, 0x7F)]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    pieces = ["<unk>", "<s>", "</s>", *bytes_, "\u2581", *letters, "ab", "\u2581a"]
    merges = [("a", "b"), ("\u2581", "a")]
    tokenizer = Tokenizer(
        tokenizer_models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    known = fim_formats.CODELLAMA
    names = ("<s>", "</s>", known.prefix, known.suffix, known.middle, known.end)
    tokenizer.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    folder = tmp_path_factory.mktemp("spaced")
    tokenizer.save(str(folder / "tokenizer.json"))
    return CheckpointCodec(folder)


@pytest.mark.parametrize("text", [" a", "ab", "  ab  ", "\n\tab", "", "\u00e9 \U0001f600", TEXT])
def test_a_vocabulary_that_adds_spaces_gives_texts_back_unchanged(spaced_codec, text):
    (ids,) = spaced_codec.encode([text])
    assert spaced_codec.decode(ids) == text
    joined = [index for part in (text[:1], text[1:]) for index in spaced_codec.encode([part])[0]]
    assert spaced_codec.decode(joined) == text


def test_a_family_with_a_start_token_gets_it_before_every_prompt(spaced_codec):
    prompt = infill_prompt(spaced_codec, "ab", "a", "psm", 100)
    assert prompt.last == []  # nothing is healed where ids do not stand for bytes
    assert prompt.ids[0] == 1
    assert prompt.ids[1] == spaced_codec.special_ids["\u2581<PRE>"]


# ---- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["psm", "spm"])
def test_an_infill_prompt_is_what_training_puts_before_a_middle(checkpoint, mode):
    codec = checkpoint[1]
    prefix, suffix = codec.encode([TEXT[:20], TEXT[30:]])
    expected = codec.fim_ids.prompt(prefix[:-1], suffix, mode)
    prompt = infill_prompt(codec, TEXT[:20], TEXT[30:], mode, 1000)
    assert (prompt.ids, prompt.last) == (expected, prefix[-1:])  # which the answer writes again


@pytest.mark.parametrize(
    ("num_prefix", "num_suffix", "kept"),
    [(100, 100, (30, 10)), (5, 100, (5, 35)), (100, 5, (35, 5)), (3, 4, (3, 4)), (0, 99, (0, 40))],
)
def test_trimming_keeps_the_end_of_the_prefix_and_the_start_of_the_suffix(
    num_prefix, num_suffix, kept
):
    prefix, suffix = list(range(num_prefix)), list(range(1000, 1000 + num_suffix))
    got = trim_context(prefix, suffix, 40)
    assert got == (prefix[num_prefix - kept[0] :], suffix[: kept[1]])


def test_a_long_prompt_fits_and_keeps_its_sentinels(checkpoint):
    codec = checkpoint[1]
    prompt = infill_prompt(codec, TEXT * 50, TEXT * 50, "psm", 64)
    assert len(prompt.ids) + len(prompt.last) == 64
    sentinels = codec.fim_ids.sentinels.values()
    assert [i for i in prompt.ids if i in sentinels] == codec.fim_ids.prompt([], [], "psm")


def test_a_sentinel_in_the_users_text_stays_text(checkpoint):
    codec = checkpoint[1]
    prompt = infill_prompt(codec, "a<fim_middle>", "<|endoftext|>", "psm", 100)
    assert sum(i in codec.special_ids.values() for i in prompt.ids) == 3


def test_no_room_for_a_prompt_is_refused(checkpoint):
    with pytest.raises(Refusal, match=r"max_new_tokens 250 leaves 6 tokens .* at most 240"):
        prompt_room(checkpoint[0], 250)


def test_an_empty_prompt_is_refused(checkpoint):
    with pytest.raises(Refusal, match="the prompt is empty"):
        completion_prompt(checkpoint[1], "", 10)


# ---- generation ----------------------------------------------------------------------------------


def some_prompts(codec):
    texts = [TEXT, "a", "import os\n" * 12, "class A:\n    x = 1\n", "\u4e16\u754c", "    " * 9]
    return codec.encode(texts)


def test_streaming_with_a_cache_equals_the_whole_sequence_again_and_again(checkpoint):
    model, codec = checkpoint
    for prompt in some_prompts(codec):
        got = list(decoding.stream_tokens(model, prompt, ends_at({0}), 24))
        assert got == reference_greedy(model, prompt, ends_at({0}), 24)


def test_a_forbidden_id_is_passed_over_for_the_next_likely_one(checkpoint):
    model, codec = checkpoint
    prompts = some_prompts(codec)
    free = decoding.complete_batch(model, prompts, ends_at({0}), 24, codec.pad)
    ending = ends_at({0}, {ids[3] for ids in free if len(ids) > 3})
    assert ending.forbidden
    cut = decoding.complete_batch(model, prompts, ending, 24, codec.pad)
    for prompt, ids in zip(prompts, cut, strict=True):
        assert not ending.forbidden & set(ids)
        assert ids == reference_greedy(model, prompt, ending, 24)
        assert list(decoding.stream_tokens(model, prompt, ending, 24)) == ids
    hot = decoding.Sampling(temperature=5.0)
    drawn = list(decoding.stream_tokens(model, prompts[0], ending, 200, hot))
    assert not ending.forbidden & set(drawn)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_a_batch_gives_what_each_prompt_gives_alone(checkpoint, make):
    model, codec = make(), checkpoint[1]
    prompts = some_prompts(codec)
    ending = ends_at({0})
    alone = [list(decoding.stream_tokens(model, prompt, ending, 24)) for prompt in prompts]
    assert decoding.complete_batch(model, prompts, ending, 24, codec.pad) == alone


def test_a_batch_draws_what_single_prompts_draw_with_the_seeds_that_follow(checkpoint):
    model, codec = checkpoint
    prompts = [some_prompts(codec)[0]] * 3 + some_prompts(codec)
    ending, sampling = ends_at({0}), decoding.Sampling(1.0, 0.9, seed=7)
    alone = [
        list(decoding.stream_tokens(model, prompt, ending, 12, replace(sampling, seed=7 + place)))
        for place, prompt in enumerate(prompts)
    ]
    assert decoding.complete_batch(model, prompts, ending, 12, codec.pad, sampling) == alone
    assert len({tuple(ids) for ids in alone[:3]}) > 1


def test_a_stop_id_ends_its_own_row_only(checkpoint):
    model, codec = checkpoint
    prompts = some_prompts(codec)
    free = decoding.complete_batch(model, prompts, ends_at([]), 16, codec.pad)
    stop = free[0][5]
    cut = decoding.complete_batch(model, prompts, ends_at({stop}), 16, codec.pad)
    expected = [row[: row.index(stop) + 1] if stop in row else row for row in free]
    assert cut == expected
    assert len(cut[0]) <= 6 < max(len(row) for row in cut)


def test_rows_that_go_on_are_not_mixed_up_when_most_have_stopped(checkpoint):
    model, codec = checkpoint
    prompts = some_prompts(codec)
    free = decoding.complete_batch(model, prompts, ends_at([]), 16, codec.pad)

    def third_ids_of_others(pair):
        return {row[2] for place, row in enumerate(free) if place not in pair}

    pairs = itertools.combinations(range(len(free)), 2)
    going_on = next(
        pair for pair in pairs if not third_ids_of_others(pair) & {*free[pair[0]], *free[pair[1]]}
    )
    stops = third_ids_of_others(going_on)
    cut = decoding.complete_batch(model, prompts, ends_at(stops), 16, codec.pad)
    assert [cut[place] for place in going_on] == [free[place] for place in going_on]
    assert free[going_on[0]][3:] != free[going_on[1]][3:]
    assert max(len(row) for place, row in enumerate(cut) if place not in going_on) <= 3


def test_draws_repeat_with_their_seed_and_differ_with_another(checkpoint):
    model, codec = checkpoint
    prompt = codec.encode([TEXT])[0]

    def draw(seed):
        sampling = decoding.Sampling(temperature=1.0, top_p=0.9, seed=seed)
        return list(decoding.stream_tokens(model, prompt, ends_at([]), 16, sampling))

    assert draw(1) == draw(1) != draw(2)


def test_draws_follow_the_softmax_within_top_p():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(20_000, 4)
    generator = torch.Generator().manual_seed(0)
    drawn = decoding._choose(logits, decoding.Sampling(0.5, 0.9), [generator] * 20_000)
    kept = (logits[0] / 0.5).softmax(0)[:2]  # 0.86 alone is less than 0.9, the second crosses it
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares[2:].sum() == 0
    torch.testing.assert_close(shares[:2], kept / kept.sum(), atol=0.01, rtol=0)


def test_a_tiny_top_p_is_greedy():
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    drawn = decoding._choose(logits, decoding.Sampling(1.0, 1e-6), [generator] * 50)
    assert drawn.tolist() == logits.argmax(-1).tolist()


def test_streamed_text_never_splits_a_character_and_leaves_out_specials(checkpoint):
    codec = checkpoint[1]
    ids = codec.encode([TEXT])[0]
    special = codec.special_ids["<|im_start|>"]
    pieces = list(stream_text(codec, [*ids, special, 0, *ids], {0}))
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 10


def test_a_character_that_is_never_finished_is_not_streamed(checkpoint):
    codec = checkpoint[1]
    ids = codec.encode(["a\U0001f600"])[0]
    assert len(ids) > 2, "the character takes several tokens"
    assert "".join(stream_text(codec, ids[:-1], {0})) == "a"


def test_ids_of_a_padded_vocabulary_stand_for_no_text(checkpoint):
    codec = checkpoint[1]
    ids = codec.encode(["abc"])[0]
    assert codec.decode([*ids, codec.vocab_size, codec.vocab_size + 127]) == "abc"


# ---- generate.py ---------------------------------------------------------------------------------


def write(path, text):
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_position_counts_lines_and_characters_from_one(tmp_path, newline):
    path = write(tmp_path / "a.py", f"\u4e16x = 1{newline}\ty = 2{newline}")
    for place, prefix in {
        "1:1": "",
        "1:2": "\u4e16",
        "1:7": "\u4e16x = 1",
        "2:2": "\u4e16x = 1\n\t",
        "3:1": "\u4e16x = 1\n\ty = 2\n",
        "1": "\u4e16x = 1",  # the end of the line
        "2": "\u4e16x = 1\n\ty = 2",
    }.items():
        hole = generate.find_hole(f"{path}:{place}", "<FILL>", "</FILL>")
        assert hole.prefix == prefix
        assert hole.prefix + hole.suffix == "\u4e16x = 1\n\ty = 2\n"
        assert hole.newline == newline


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("4:1", "has lines 1 to 3, so line 4 is outside"),
        ("0:1", "line 0 is outside"),
        ("1:7", "has columns 1 to 6 .*column 7 is outside"),
        ("1:0", "column 0 is outside"),
    ],
)
def test_a_position_outside_the_file_is_refused(tmp_path, place, sentence):
    path = write(tmp_path / "a.py", "x = 1\ny = 2\n")
    with pytest.raises(Refusal, match=sentence):
        generate.find_hole(f"{path}:{place}", "<FILL>", "</FILL>")


def test_the_text_between_two_marks_is_thought_away(tmp_path):
    path = write(tmp_path / "a.py", "a = [[old]]1\n")
    hole = generate.find_hole(str(path), "[[", "]]")
    assert (hole.prefix, hole.suffix) == ("a = ", "1\n")


@pytest.mark.parametrize("text", ["a", "<FILL>", "</FILL> <FILL>", "<FILL></FILL><FILL></FILL>"])
def test_marks_that_enclose_no_single_hole_are_refused(tmp_path, text):
    path = write(tmp_path / "a.py", text)
    with pytest.raises(Refusal, match=r"must hold <FILL> and after it </FILL>, each once"):
        generate.find_hole(str(path), "<FILL>", "</FILL>")


def test_files_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(b"a\xff")
    with pytest.raises(Refusal, match=r"is not UTF-8 \(byte 1\)"):
        generate.find_hole(f"{path}:1:1", "<FILL>", "</FILL>")
    with pytest.raises(Refusal, match="is not a file"):
        generate.find_hole(f"{tmp_path / 'absent.py'}:1:1", "<FILL>", "</FILL>")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "exactly one of --prompt, --prompt_file and --infill must be given, not none"),
        (["--prompt", "a", "--infill", "b"], "not --prompt and --infill"),
        (["--prompt", "a", "--top_p", "0.5"], "top_p 0.5 has no effect at temperature 0"),
        (["--prompt", "a", "--top_p", "2", "--temperature", "1"], "top_p 2.0 is out of range"),
        (["--prompt", "a", "--temperature", "-1"], "temperature -1.0 must be 0, or"),
        (["--prompt", "a", "--temperature", "1e-320"], "temperature 1e-320 must be 0, or"),
        (["--prompt", "a", "--temperature", "nan"], "temperature nan must be 0, or"),
        (["--infill", f"{__file__}:{'1' * 5000}:1"], "1 is outside the file"),
        (["--prompt", "a", "--max_new_tokens", "0"], "max_new_tokens 0 must be at least 1"),
        (["--prompt", "a", "--mode", "msp"], "mode"),
    ],
)
def test_arguments_that_contradict_are_refused(flags, sentence):
    with pytest.raises(Refusal, match=sentence):
        generate.main(["some/model", *flags])


def test_a_prompt_is_continued_on_stdout_with_one_line_on_stderr(run_folder, checkpoint, capsys):
    model, codec = checkpoint
    generate.main([str(run_folder), "--prompt", TEXT, "--max_new_tokens", "12", "--device", "cpu"])
    out, err = capsys.readouterr()
    ending = decoding.ending_of(model, codec)
    *prompt, last = codec.encode([TEXT])[0]
    ids = reference_greedy(model, prompt, ending, 13, codec, codec.token_bytes[last])
    assert out == "".join(stream_text(codec, ids, ending.stops, len(codec.token_bytes[last])))
    assert err.count("\n") == 1
    assert f"{len(ids)} tokens in " in err
    assert "stopped at " in err


@pytest.mark.parametrize("kind", ["prompt", "prompt_file", "infill"])
def test_a_context_that_is_cut_is_told_with_both_lengths(
    kind, run_folder, checkpoint, tmp_path, capsys
):
    path = write(tmp_path / "a.py", TEXT * 40)
    given = {"prompt": TEXT * 40, "prompt_file": path, "infill": f"{path}:5:1"}[kind]
    model, codec = checkpoint
    room = prompt_room(model, 4)
    generate.main([str(run_folder), f"--{kind}", str(given), "--max_new_tokens", "4"])
    told = re.search(r"context cut to ([\d,]+) of ([\d,]+) tokens", capsys.readouterr().err)
    kept, whole = (int(number.replace(",", "")) for number in told.groups())
    number = len(codec.encode([TEXT * 40])[0])
    assert kept == room
    assert number <= whole <= number + 6  # the sentinels, and a token that the cursor splits


@pytest.mark.parametrize("text", ["-- all users by name", "--help"])
def test_a_prompt_may_begin_with_dashes(text, run_folder, checkpoint, capsys):
    model, codec = checkpoint
    generate.main([str(run_folder), "--prompt", text, "--max_new_tokens", "4", "--device", "cpu"])
    (*prompt, last), ending = codec.encode([text])[0], decoding.ending_of(model, codec)
    ids = reference_greedy(model, prompt, ending, 5, codec, codec.token_bytes[last])
    written = stream_text(codec, ids, {0}, len(codec.token_bytes[last]))
    assert capsys.readouterr().out == "".join(written)


def test_the_answer_for_a_crlf_file_has_crlf(run_folder, checkpoint, tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "a.py", "x = 1\r\ny = 2\r\n")
    codec = checkpoint[1]
    prompt = infill_prompt(codec, "x = 1\n", "y = 2\n", "psm", CONTEXT - 128)
    answer = [*prompt.last, *codec.encode(["a\nb\n"])[0], codec.fim_ids.end]
    prompts = []

    def fake(model, prompt, *rest):
        prompts.append(prompt)
        return iter(answer)

    monkeypatch.setattr(decoding, "stream_tokens", fake)
    generate.main([str(run_folder), "--infill", f"{path}:2:1", "--device", "cpu"])
    out, err = capsys.readouterr()
    assert out == "a\r\nb\r\n"
    assert "stopped at <|endoftext|>" in err
    assert prompts == [prompt.ids]


def test_the_help_says_how_positions_are_counted(capsys):
    with pytest.raises(SystemExit):
        generate.main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "counted from 1" in out
    assert "COLUMN counts characters" in out


def test_a_prompt_file_is_read(run_folder, tmp_path, capsys):
    path = write(tmp_path / "prompt.txt", TEXT)
    flags = ["--max_new_tokens", "4", "--device", "cpu"]
    generate.main([str(run_folder), "--prompt_file", str(path), *flags])
    from_file = capsys.readouterr().out
    generate.main([str(run_folder), "--prompt", TEXT, *flags])
    assert from_file == capsys.readouterr().out


def test_a_complete_local_folder_needs_no_network(run_folder):
    config = json.loads((run_folder / "model" / "config.json").read_text())
    assert config["max_position_embeddings"] == CONTEXT
    model, _ = load_checkpoint(str(run_folder / "model"), "cpu", "bfloat16")
    assert model.dtype == torch.bfloat16


# ---- the order of the parts ----------------------------------------------------------------------


def with_variant(run_folder, tmp_path, variant):
    """A copy of the model whose config.json says in which SPM order it was trained."""
    folder = tmp_path / "model"
    shutil.copytree(run_folder / "model", folder, ignore=lambda *_: [MANIFEST])
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"spm_variant": variant})
    return folder


def letters(codec, prompt):
    """The order of a prompt's sentinels."""
    names = {index: letter for letter, index in codec.fim_ids.sentinels.items()}
    return "".join(names[index] for index in prompt.ids if index in names)


def test_a_model_is_asked_in_the_order_that_its_config_names(run_folder, tmp_path):
    folder = with_variant(run_folder, tmp_path, 1)
    for words, order in (({}, "spm"), ({"spm_variant": 2}, "psm")):
        _, codec = load_checkpoint(str(folder), "cpu", **words)
        prompt = infill_prompt(codec, "a = ", "\nc = 2\n", "spm", CONTEXT)
        assert letters(codec, prompt) == order
    _, codec = load_checkpoint(str(run_folder), "cpu")
    assert letters(codec, infill_prompt(codec, "a = ", "\nc = 2\n", "spm", CONTEXT)) == "psm"


@pytest.mark.parametrize("variant", [3, "suffix first", None])
def test_an_order_that_does_not_exist_is_refused(run_folder, tmp_path, variant):
    folder = with_variant(run_folder, tmp_path, variant)
    with pytest.raises(Refusal, match=r"config.json of .* has spm_variant .*; there are 1, 2"):
        load_checkpoint(str(folder), "cpu")
