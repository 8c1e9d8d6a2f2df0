"""Held-out scores in the loop are of the same rows, however many ranks share them."""

import pytest
from run_in_ranks import metrics_of

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
