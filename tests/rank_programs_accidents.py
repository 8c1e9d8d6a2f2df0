"""train.py with something that goes wrong in it at a chosen place, for the tests of what follows.

Each program takes a JSON object as its first word, the rest is the command line of train.py.
"""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable

import train
from hugcoder.engines import collectives
from hugcoder.pretraining.trainer import PretrainTrainer
from hugcoder.run.callbacks import hang_watchdog, stop_requests
from hugcoder.run.callbacks.hang_watchdog import HangWatchdog

HEALTHY_NORMS = [0.5 + 0.1 * (i % 50) for i in range(64)]  # enough for the guard to know a spike


def with_bad_gradients(argv: list[str]) -> None:
    """Multiply the loss of one rank, and with it its gradients, in one step.

    step, rank, factor. knows_spikes: the guard begins with a history of norms.
    """
    given = json.loads(argv[0])
    norms = HEALTHY_NORMS if given.get("knows_spikes") else []
    make_gradients_bad({given["step"]: float(given["factor"])}, given["rank"], norms)
    train.main(argv[1:])


def make_gradients_bad(factors: dict[int, float], rank: int, norms: list[float]) -> None:
    """Let trainers multiply the loss of one rank in some steps.

    Args: factors: by step, the first is 1; norms: the history that the guard begins with.
    """
    make = PretrainTrainer.__init__

    def make_ill(self, *args, **kwargs):
        make(self, *args, **kwargs)
        healthy = self._loss_by_kind

        def ill(*tensors):
            sums, counts = healthy(*tensors)
            is_here = self.model.training and self.args.process_index == rank
            factor = factors.get(self.state.global_step + 1) if is_here else None
            return (sums if factor is None else sums * factor), counts

        self._loss_by_kind = ill
        self.gradient_guard.load_state({"num_skipped": 0, "norms": norms, "skipped": []})

    PretrainTrainer.__init__ = make_ill


def without_an_update(argv: list[str]) -> None:
    """Leave out the update of one step, without a guard. step."""
    step = json.loads(argv[0])["step"]
    prepare = PretrainTrainer._prepare_for_training

    def prepare_and_leave_out(self, *args, **kwargs):
        prepared = prepare(self, *args, **kwargs)
        update, advance = self.optimizer.step, self.lr_scheduler.step

        def unless_left_out(do: Callable[[], None], now: int) -> None:
            if now != step:
                do()

        # the Trainer counts the step between the two
        self.optimizer.step = lambda: unless_left_out(update, self.state.global_step + 1)
        self.lr_scheduler.step = lambda: unless_left_out(advance, self.state.global_step + 1)
        return prepared

    PretrainTrainer._prepare_for_training = prepare_and_leave_out
    train.main([*argv[1:], "--skip_spike_sigmas", "0"])


def with_a_signal(argv: list[str]) -> None:
    """Send one rank a signal. rank, signal, place: build, step, evaluate, save; step, times.

    Its data workers get it too. repeat_seconds: after which a second one counts.
    """
    given = json.loads(argv[0])
    stop_requests.REPEAT_SECONDS = given.get("repeat_seconds", stop_requests.REPEAT_SECONDS)
    name = {
        "build": "__init__",
        "step": "training_step",
        "evaluate": "evaluate",
        "save": "_save_checkpoint",
    }[given["place"]]
    method = getattr(PretrainTrainer, name)
    sent = []

    def signalled(self, *args, **kwargs):
        result = method(self, *args, **kwargs)
        is_now = self.state.global_step + 1 >= given.get("step", 1)
        if is_now and self.args.process_index == given["rank"] and not sent:
            sent.append(True)
            own = [child.pid for child in multiprocessing.active_children()] + [os.getpid()]
            for pid in own * given.get("times", 1):
                os.kill(pid, getattr(signal, given["signal"]))
        return result

    setattr(PretrainTrainer, name, signalled)
    train.main(argv[1:])


def with_a_rank_asleep(argv: list[str]) -> None:
    """Let one rank wait for ever in its data. rank, row. holds_lock: native code, with the lock.

    seconds: of the watchdog from the end of step 1 on; until then a busy machine has the time that
    the command line gives.
    """
    import ctypes

    from hugcoder.data.rows import PackedRows

    given = json.loads(argv[0])
    item, feed = PackedRows.__getitem__, HangWatchdog.feed

    def slow_item(self, index):
        if os.environ.get("RANK", "0") == str(given["rank"]) and index >= given["row"]:
            sleep = ctypes.PyDLL(None).sleep if given.get("holds_lock") else time.sleep
            sleep(600)
        return item(self, index)

    def feed_less(self, state):
        if state.global_step:
            self.seconds = given["seconds"]
        feed(self, state)

    PackedRows.__getitem__, HangWatchdog.feed = slow_item, feed_less
    train.main(argv[1:])


def without_a_rank(argv: list[str]) -> None:
    """Let one rank never arrive, and the start have no longer allowance than steps have.

    rank; place: join, agree or leave.
    """
    given = json.loads(argv[0])
    hang_watchdog.FIRST_STEP_SECONDS = 0.0
    is_here = os.environ.get("RANK", "0") == str(given["rank"])
    holder, name = {
        "join": (train, "main"),
        "agree": (stop_requests, "refuse_while_stopped"),
        "leave": (collectives, "leave_together"),
    }[given["place"]]
    do = getattr(holder, name)

    def do_unless_here(*args, **kwargs):
        if is_here:
            time.sleep(600)
        return do(*args, **kwargs)

    setattr(holder, name, do_unless_here)
    train.main(argv[1:])


def without_fp16(argv: list[str]) -> None:
    """Let DeepSpeed and torch know of no fp16 on this processor."""
    import torch

    torch.ops.mkldnn._is_mkldnn_fp16_supported = lambda: False
    train.main(argv[1:])


def with_files_put(argv: list[str]) -> None:
    """Put a file into the run folder in the middle of a step. name, step."""
    given = json.loads(argv[0])
    training_step = PretrainTrainer.training_step

    def step_with_file(self, *args, **kwargs):
        if self.state.global_step + 1 == given["step"] and self.is_world_process_zero():
            time.sleep(1.1)  # rank 0 looks once a second
            open(os.path.join(self.args.output_dir, given["name"]), "w").close()
        return training_step(self, *args, **kwargs)

    PretrainTrainer.training_step = step_with_file
    train.main(argv[1:])


def with_a_fused_loss(argv: list[str]) -> None:
    """Take the loss from the model, which gives only its mean, as a fused kernel does."""
    make = PretrainTrainer.__init__

    def make_fused(self, *args, **kwargs):
        make(self, *args, **kwargs)
        self.loss_sums.names = {}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        del inputs["kinds"]
        return self._fused_loss(model, inputs, return_outputs, num_items_in_batch)

    PretrainTrainer.__init__, PretrainTrainer.compute_loss = make_fused, compute_loss
    train.main(argv[1:])
