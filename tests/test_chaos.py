"""A short storm of kills over each engine; a long one is `python tests/chaos.py`."""

import pytest
from chaos import rage


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp.yaml", "fsdp.yaml", "deepspeed.yaml"])
def test_runs_that_are_killed_at_random_end_like_the_undisturbed_one(
    engine, ranks, store, model_config, tmp_path
):
    storm = rage(ranks, engine, 5, tmp_path, store, model_config, seed=3)
    assert storm.num_kills == 5
    assert storm.finished_runs >= 1
    assert storm.complaints == []
