"""Held-out scores in the loop are of the same rows, however many ranks share them."""

import math

import pytest
from run_in_ranks import metrics_of

from hugcoder.pretraining.held_out import Score

SCORES = ("eval/loss", "eval/bits_per_byte", "eval/middle_loss", "eval/middle_bits_per_byte")
SCORED = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 2, "global_batch_size": 4}


def scores(run) -> list[float]:
    (line,) = [line for line in metrics_of(run) if "eval/loss" in line]
    return [line[name] for name in SCORES]


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
