"""Held-out scores in the loop are of the same rows, however many ranks share them."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from evaluation_fixtures import tiny_llama
from run_in_ranks import metrics_of

import fim
from hugcoder.data.batch import PackedCollator
from hugcoder.data.codec import Codec
from hugcoder.data.corpus import HELD_OUT
from hugcoder.data.holes import UNIT_LENGTHS
from hugcoder.data.token_store import TokenStore
from hugcoder.pretraining.held_out import Score
from hugcoder.pretraining.held_out_holes import draw_holes, score_holes

SCORES = ("eval/loss", "eval/bits_per_byte", "eval/middle_loss", "eval/middle_bits_per_byte")
HOLE_SCORES = tuple(
    f"eval/{name}_{order}"
    for order in ("psm", "spm")
    for name in (
        *("single_line_probability", "single_line_bits", "single_line_end_probability"),
        *("short_probability", "short_bits", "short_end_probability", "show", "quiet"),
    )
)
SCORED = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 2, "global_batch_size": 4}


def scores(run) -> list[float]:
    (line,) = [line for line in metrics_of(run) if "eval/loss" in line]
    return [line[name] for name in (*SCORES, *HOLE_SCORES)]


@pytest.mark.parametrize(("num_rows", "batch_size"), [(3, 8), (7, 2)])
def test_scores_do_not_depend_on_the_number_of_ranks(tiny, num_rows, batch_size):
    """Symptom: 64 rows on 128 ranks were one row, counted 128 times."""
    settings = SCORED | {"held_out_rows": num_rows, "per_device_eval_batch_size": batch_size}
    tiny.run("one", per_device_train_batch_size=4, **settings)
    tiny.run("four", "ddp.yaml", world=4, per_device_train_batch_size=1, **settings)
    assert scores(tiny.folder / "four") == pytest.approx(scores(tiny.folder / "one"), rel=3e-6)


def test_a_score_of_no_tokens_is_no_number_and_no_metric():
    """Symptom: 0.0, a perfect score, where no middle was held out."""
    nothing, only_specials = Score(0.0, 0, 0), Score(6.0, 2, 0)
    assert math.isnan(nothing.nats_per_token)
    assert math.isnan(nothing.bits_per_byte)
    assert nothing.metrics("loss", "bits") == {}
    assert only_specials.metrics("loss", "bits") == {"loss": 3.0}
    assert Score(math.log(2) * 8, 4, 2).metrics("loss", "bits")["bits"] == pytest.approx(4.0)


def test_a_loss_that_is_no_number_stays_a_metric():
    assert math.isnan(Score(math.nan, 4, 2).metrics("loss", "bits")["loss"])


def test_a_run_whose_middles_have_no_bytes_ends_well_without_their_score(tiny):
    """Middles that are all empty have an end token and no bytes."""
    settings = SCORED | {"held_out_rows": 2, "fim_spans": "empty=1"}
    ended = tiny.run("run", per_device_train_batch_size=4, **settings)
    (line,) = [line for line in metrics_of(tiny.folder / "run") if "eval/loss" in line]
    assert "eval/middle_bits_per_byte" not in line
    assert ended.output.count("eval_middle_bits_per_byte cannot be scored") == 1


# ---- holes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec(store):
    return Codec(store / "tokenizer")


@pytest.fixture(scope="module")
def holes(store, codec):
    return draw_holes(TokenStore(store, HELD_OUT), codec, 256, num_holes=6)


def test_holes_are_whole_units_of_several_lengths_in_both_orders(holes, codec):
    assert len(holes.units) > 30
    lengths = {len(unit.ids) for unit in holes.units}
    assert max(lengths) == 256
    assert lengths & {*UNIT_LENGTHS}
    for unit in holes.units:
        assert unit.ids[-1] == codec.fim_ids.end
        prompt = unit.ids[: unit.answer_start]
        assert all(prompt.count(index) == 1 for index in codec.fim_ids.sentinels.values())
        assert (unit.kind in ("show", "quiet")) <= (unit.answer_start == len(unit.ids) - 2)
        assert unit.ids[unit.answer_start] in unit.allowed
    for kind in ("single_line", "short", "show", "quiet"):
        orders = [unit.order for unit in holes.units if unit.kind == kind]
        assert orders.count("psm") == orders.count("spm") >= 3


def test_every_run_on_a_store_is_asked_the_same_holes(holes, store, codec):
    again = draw_holes(TokenStore(store, HELD_OUT), codec, 256, num_holes=6)
    assert [unit[:4] for unit in again.units] == [unit[:4] for unit in holes.units]


def test_scores_of_holes_equal_each_unit_alone(holes, codec):
    """Packed into rows, scored together: as if each unit were asked by itself."""
    model = tiny_llama()
    model.config.use_cache = False  # as in training: else packed documents are not kept apart
    with torch.no_grad():
        model.lm_head.weight[codec.fim_ids.end] = model.lm_head.weight.mean(0) * 40
    found = score_holes(model, holes, Accelerator(cpu=True), PackedCollator(False), 4, lambda: None)
    middles, ends, silent = {}, {}, {}
    for unit in holes.units:
        ids = torch.tensor([unit.ids])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, unit.answer_start - 1 : -1].double()
        forbidden = [i for i in range(logits.shape[1]) if i not in set(unit.allowed.tolist())]
        logits[0, forbidden] = -torch.inf
        targets = ids[0, unit.answer_start :]
        nats = -logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].numpy()
        key = (unit.kind, unit.order)
        middles.setdefault(key, []).append(nats[:-1].sum())
        ends.setdefault(key, []).append(nats[-1])
        silent.setdefault(key, []).append(bool((logits.argmax(-1) == targets).all()))
    for order in ("psm", "spm"):
        for kind in ("single_line", "short"):
            end, whole = np.array(ends[kind, order]), np.array(middles[kind, order])
            whole = whole + end
            expected = {
                "probability": np.exp(-whole).mean(),
                "bits": whole.mean() / math.log(2),
                "end_probability": np.exp(-end).mean(),
            }
            for name, value in expected.items():
                assert found[f"{kind}_{name}_{order}"] == pytest.approx(value, rel=1e-4)
        assert found[f"quiet_{order}"] == pytest.approx(np.mean(silent["quiet", order]))
        assert found[f"show_{order}"] == pytest.approx(1 - np.mean(silent["show", order]))
    assert len(found) == len(HOLE_SCORES)


def test_a_row_too_short_for_a_middle_leaves_its_hole_out(store, codec):
    rows = draw_holes(TokenStore(store, HELD_OUT), codec, 64, num_holes=6)
    for unit in rows.units:
        assert len(unit.ids) <= 64
        assert len(unit.ids) - unit.answer_start - 1 <= 32
    assert fim.NUM_ADDED_TOKENS == 4  # three sentinels and the end, beside the context
