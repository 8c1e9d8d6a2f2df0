"""Token healing: what may stand in the place of a token before a cursor."""

import numpy as np
import pytest
from evaluation_fixtures import tiny_llama

import fim
from hugcoder.data.codec import Codec
from hugcoder.data.healing import Healing
from hugcoder.generation import decoding
from hugcoder.generation.loading import CheckpointCodec
from hugcoder.generation.prompts import infill_prompt

TEXT = "class Reader:\n    def close(self):\n        self.file.close()  # \u00e9\u4e16\n"
PROGRAM = 'def read(self, path):\n    """Read all."""\n    return self.open(path).read_text()\n' * 3


@pytest.fixture(scope="module")
def healing(tokenizer):
    return Healing(Codec(tokenizer))


def test_every_token_that_can_stand_there_is_allowed_and_no_other(healing):
    """Against a search through the whole vocabulary."""
    table = healing.codec.token_bytes
    for text in (b"s", b"self", b" ret", b"\n", b"    ", b"\xe4\xb8", b"zqx"):
        expected = [
            i for i, t in enumerate(table) if t and (t.startswith(text) or text.startswith(t))
        ]
        assert healing.allowed(text).tolist() == expected
    assert healing.allowed(b"self").size >= 4  # at least its letters


def test_a_token_longer_than_what_must_come_leaves_nothing_to_come(healing):
    codec = healing.codec
    (index,) = codec.encode(["s"])[0]
    assert healing.rest(b"self", index) == b"elf"
    assert healing.rest(b"s", index) == b""
    assert healing.rest(b"", index) == b""


def test_nothing_is_left_out_of_an_empty_text_or_of_a_special_token(healing):
    assert healing.heal([]) == ([], [])
    end = healing.codec.end_of_text
    assert healing.heal([300, end]) == ([300, end], [])
    assert healing.heal([300, 301]) == ([300], [301])


@pytest.mark.parametrize("start", range(1, len(TEXT) - 9, 3))
def test_what_is_written_spells_the_middle_from_the_token_before_it(healing, start):
    codec, before, middle = healing.codec, TEXT[:start], TEXT[start : start + 8]
    (prefix,) = codec.encode([before])
    answer = healing.written(before, middle, prefix[-1:])
    last = healing.beginning(prefix[-1:])
    assert codec.decode_bytes(answer) == last + middle.encode()
    assert answer[0] in healing.allowed(last)
    whole = codec.encode([before + middle])[0]
    if whole[: len(prefix) - 1] == prefix[:-1]:
        assert [*prefix[:-1], *answer] == whole  # the tokens of the text itself


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_answer_begins_with_what_must_come(healing, temperature):
    """Also over several tokens, in a batch whose prompts differ, and when rows leave it."""
    model, codec = tiny_llama(), healing.codec
    ending = decoding.Ending(frozenset([codec.end_of_text]), frozenset())
    beginnings = [b"", b"self.file", b"\xe4\xb8\x96", b"    return", b"x"]
    prompts = [codec.encode([TEXT[:length]])[0] for length in (9, 20, 31, 33, 50)]
    sampling = decoding.Sampling(temperature=temperature, seed=3)
    settings = {"pad": codec.pad, "sampling": sampling}
    batch = decoding.complete_batch(
        model, prompts, ending, 16, must=decoding.Must(healing, beginnings), **settings
    )
    for place, (prompt, beginning) in enumerate(zip(prompts, beginnings, strict=True)):
        assert codec.decode_bytes(batch[place]).startswith(beginning)
        alone = decoding.stream_tokens(
            model,
            prompt,
            ending,
            16,
            decoding.Sampling(temperature=temperature, seed=3 + place),
            decoding.Must(healing, [beginning]),
        )
        assert list(alone) == batch[place]


@pytest.mark.parametrize(("mode", "variant"), [("psm", 2), ("spm", 1), ("spm", 2)])
@pytest.mark.parametrize("seed", range(30))
def test_training_spells_a_hole_as_generation_asks_for_it(tokenizer, mode, variant, seed):
    codec = CheckpointCodec(tokenizer, variant)
    settings = fim.FimSettings(1.0, float(mode == "spm"), healing=True)
    rng = np.random.default_rng(seed)
    unit = fim.make_unit(PROGRAM, codec.encode, codec.fim_ids, rng, settings, len(PROGRAM))
    rng = np.random.default_rng(seed)
    rng.random()  # the order
    span = fim.draw_span(PROGRAM, rng, settings.spans)
    before, after = PROGRAM[: span.start], PROGRAM[span.stop :]
    prompt = infill_prompt(codec, before, after, mode, len(PROGRAM))
    answer = codec.healing.written(before, PROGRAM[span.start : span.stop], prompt.last)
    assert unit.ids == [*prompt.ids, *answer, codec.fim_ids.end]
    assert unit.middle_start == len(prompt.ids)
