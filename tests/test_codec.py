"""The codec: text comes back byte for byte, special tokens in text stay text, bytes are known."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import train_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from hugcoder.data import fim_formats
from hugcoder.data.codec import Codec
from hugcoder.data.corpus import TRAIN, read_corpus
from hugcoder.data.special_tokens import NUM_SPECIAL_TOKENS, SPECIAL_TOKENS
from hugcoder.refusal import Refusal

PROBES = [
    "",
    "a",
    "\r\n\r\n",
    "\ufeffx = 1",
    "\x00\x01\x7f\u0085\u2028",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u6f22\u5b57 e\u0301 \ufffd",
    "".join(SPECIAL_TOKENS),
    " \t  \n\n   x",
]


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_byte_for_byte(codec, text):
    assert codec.decode_bytes(codec.encode([text])[0]) == text.encode()


@pytest.mark.parametrize("text", PROBES)
def test_awkward_text_comes_back_without_special_ids(codec, text):
    ids = codec.encode([text])[0]
    assert codec.decode_bytes(ids) == text.encode()
    assert codec.decode(ids) == text
    assert not set(ids) & set(codec.special_ids.values())


def test_a_batch_is_encoded_as_its_texts_are_alone(codec, corpus):
    texts = [row["content"] for row in read_corpus(corpus, TRAIN)][:10]
    assert codec.encode([*texts, ""]) == [codec.encode([text])[0] for text in [*texts, ""]]


def test_the_bytes_of_a_document_are_those_of_its_tokens(codec, corpus):
    row = next(read_corpus(corpus, TRAIN))
    ids = np.array(codec.encode([row["content"]])[0])
    assert codec.num_bytes[ids].sum() == row["size"]
    assert codec.ends_line[ids].sum() <= row["content"].count("\n")


def test_tables_agree_with_decoding_every_id(codec):
    specials = set(codec.special_ids.values())
    for index in range(codec.vocab_size):
        token = codec.decode_bytes([index])
        assert codec.num_bytes[index] == len(token)
        assert codec.ends_line[index] == token.endswith(b"\n")
        assert codec.continues_character[index] == (bool(token) and 128 <= token[0] < 192)
        assert (token == b"") == (index in specials)


def test_bytes_inside_a_character_become_replacement_characters(codec):
    ids = codec.encode(["\U0001f600"])[0]
    if len(ids) > 1:
        assert codec.decode(ids[:1]) == "\ufffd"
    assert codec.decode(ids) == "\U0001f600"


def test_special_tokens_have_the_first_ids_and_stand_for_no_bytes(codec):
    assert len(SPECIAL_TOKENS) == len(set(SPECIAL_TOKENS)) == NUM_SPECIAL_TOKENS
    assert [codec.special_ids[name] for name in SPECIAL_TOKENS] == list(range(64))
    assert codec.decode_bytes(range(64)) == b""
    assert codec.end_of_text == codec.special_ids["<|endoftext|>"]
    assert codec.pad == codec.special_ids["<fim_pad>"]
    assert codec.fim_ids.format == fim_formats.STARCODER


def test_a_pickled_codec_of_a_checkpoint_stays_one(codec):
    """Symptom: in a data worker it encoded as a plain Codec, without what it knows of a family."""
    from hugcoder.generation.loading import CheckpointCodec

    copy = pickle.loads(pickle.dumps(CheckpointCodec(codec.folder)))
    assert type(copy) is CheckpointCodec
    assert copy.start_ids == []


def test_a_pickled_codec_encodes_the_same(codec):
    copy = pickle.loads(pickle.dumps(codec))
    assert copy.fingerprint == codec.fingerprint
    assert copy.encode(["def f():\n"]) == codec.encode(["def f():\n"])


def test_padding_and_truncation_in_the_file_do_not_reach_encoding(tokenizer, codec, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(tokenizer, folder)
    values = json.loads((folder / "tokenizer.json").read_text())
    values["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    values["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer.json").write_text(json.dumps(values))
    text = "def function(argument):\n    return argument\n"
    assert Codec(folder).encode([text]) == codec.encode([text])
    assert Codec(folder).fingerprint != codec.fingerprint


# ---- vocabularies of other families --------------------------------------------------------------


def qwen_like(folder: Path) -> Path:
    """Sentinels as Qwen2.5-Coder's tokenizer.json has them: added tokens with special = false."""
    names = [
        fim_formats.QWEN.end,
        fim_formats.QWEN.prefix,
        fim_formats.QWEN.middle,
        fim_formats.QWEN.suffix,
        fim_formats.QWEN.pad,
    ]
    train_tokenizer(folder, ["def f(x):\n    return x\n"] * 3, 300, names)
    values = json.loads((folder / "tokenizer.json").read_text())
    for token in values["added_tokens"]:
        token["special"] = token["content"] == fim_formats.QWEN.end
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return folder


def test_sentinels_that_are_not_flagged_special_are_found(tmp_path):
    assert Codec(qwen_like(tmp_path / "qwen")).fim_ids.format == fim_formats.QWEN


def test_sentinels_that_are_not_flagged_special_stay_text_in_text(tmp_path):
    codec = Codec(qwen_like(tmp_path / "qwen"))
    ids = codec.encode(["a <|fim_middle|> b"])[0]
    assert codec.decode_bytes(ids) == b"a <|fim_middle|> b"
    assert max(len(codec.decode_bytes([index])) for index in ids) < len("<|fim_middle|>")


def test_a_family_without_a_pad_token_pads_with_its_end(tmp_path):
    names = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
    codec = Codec(train_tokenizer(tmp_path / "t", ["x = 1\n"], 300, names))
    assert codec.pad == codec.end_of_text == 0


# ---- refusals ------------------------------------------------------------------------------------


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"no tokenizer in .*no tokenizer.json.*python -m tokenizer"):
        Codec(tmp_path)


def test_a_tokenizer_without_sentinels_is_refused_by_name(tmp_path):
    folder = train_tokenizer(tmp_path / "plain", ["x = 1\n"], 300, ["<|endoftext|>"])
    with pytest.raises(Refusal, match=r"plain: .*of every known family.*python -m tokenizer"):
        Codec(folder).fim_ids  # noqa: B018  the property refuses


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    words = {"<unk>": 0, "def": 1, "\u6f22": 2}
    (tmp_path / "words").mkdir()
    Tokenizer(models.WordLevel(words, unk_token="<unk>")).save(
        str(tmp_path / "words/tokenizer.json")
    )
    with pytest.raises(Refusal, match="is not byte-level BPE"):
        Codec(tmp_path / "words").token_bytes  # noqa: B018  the property refuses


def test_a_broken_tokenizer_file_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(Refusal):
        Codec(tmp_path)
