"""Tokens per second without pauses, and a run beside busy programs that says why it is slow."""

import logging

import pytest
import torch

from hugcoder import hardware
from hugcoder.run.callbacks import throughput


@pytest.fixture
def passed(monkeypatch) -> dict[str, float]:
    """Seconds that the clocks show, to be set by the test."""
    seconds = {"wall": 100.0, "own": 5.0, "busy": 900.0}
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: seconds["wall"])
    monkeypatch.setattr(throughput.time, "process_time", lambda: seconds["own"])
    monkeypatch.setattr(hardware, "busy_seconds", lambda: seconds["busy"])
    monkeypatch.setattr(throughput.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return seconds


def advance(passed: dict[str, float], **seconds: float) -> None:
    for name, value in seconds.items():
        passed[name] += value


def test_time_in_pauses_does_not_count(passed):
    clock = throughput.Throughput(tokens_per_step=50, flops_per_token=1.0, num_devices=1)
    advance(passed, wall=4, own=8, busy=8)
    clock.pause()
    advance(passed, wall=100, own=1, busy=200)
    clock.go_on()
    advance(passed, wall=6, own=10, busy=12)
    metrics = clock.read(step=2)
    assert metrics["tokens_per_second"] == 10
    assert metrics["cpu_share"] == 0.9
    assert clock.read(step=2) == {}


@pytest.mark.parametrize(
    ("own", "busy", "is_told"),
    [(19, 20, False), (6, 20, True), (6, 8, False)],
    ids=["alone", "beside others", "too small to fill the cores"],
)
def test_a_run_is_told_once_of_programs_that_take_its_cores(passed, caplog, own, busy, is_told):
    clock = throughput.Throughput(tokens_per_step=50, flops_per_token=1.0, num_devices=1)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            advance(passed, wall=10, own=own, busy=busy)
            clock.read(step)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == is_told
    assert all("2 thread(s) of this process got 30 %" in sentence for sentence in said)


def test_the_machine_is_never_busier_than_its_cores():
    import os

    import psutil

    up = psutil.time.time() - psutil.boot_time()
    assert 0 < hardware.busy_seconds() < up * os.cpu_count()
