"""Ranks forked from one warm process: a distributed test without ten seconds of imports a rank.

`python tests/rank_server.py` imports torch, transformers, accelerate and DeepSpeed once. Each line
of JSON on its standard input starts the ranks of one world and is answered by two lines: their
process ids, then their exit codes. Every rank runs `main(argv)` of a module, through the wrapper of
an entry point, in the environment a launcher would have made.
"""

import json
import os
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path


def serve() -> None:
    warm_up()
    answer = os.fdopen(os.dup(1), "w", buffering=1)
    answer.write('"ready"\n')
    for line in sys.stdin:
        request = json.loads(line)
        pids = [fork_rank(rank, request) for rank in range(request["world"])]
        answer.write(json.dumps(pids) + "\n")
        answer.write(json.dumps(wait(pids, request["timeout"], request["grace"])) + "\n")


def warm_up() -> None:
    """Import what a rank needs; no thread pool, process group or accelerate state is made here."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    for name in (
        "torch.distributed.fsdp",
        "torch.distributed.checkpoint",
        "transformers",
        "deepspeed",
        "hugcoder.pretraining.trainer",
        "train",
    ):
        import_module(name)


def fork_rank(rank: int, request: dict) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)  # to be ended with its data workers
        log = os.open(f"{request['log']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = run_rank(rank, request)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_rank(rank: int, request: dict) -> int:
    import torch

    from hugcoder.refusal import entry_point

    os.environ.update(request["env"])
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": request["world"]}
    own["LOCAL_WORLD_SIZE"] = request["world"]
    if request["world"] > 1 or request["as_world"]:
        os.environ.update({name: str(value) for name, value in own.items()})
    torch.set_num_threads(1)  # a forked process must not enter its parent's OpenMP pool
    module, _, function = request["main"].partition(":")
    main = getattr(import_module(module), function or "main")
    try:
        entry_point(lambda: main(request["argv"]))()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def wait(pids: list[int], timeout: float, grace: float) -> list[int]:
    """Exit codes, negative for signals.

    Ranks that outlive one that failed by `grace` seconds, the timeout, or the tests that asked for
    them are killed, and whatever a rank has left behind.
    """
    codes: dict[int, int] = {}
    deadline = time.monotonic() + timeout
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid]:
                    deadline = min(deadline, time.monotonic() + grace)
        if time.monotonic() > deadline or nobody_asks():
            for pid in set(pids) - set(codes):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return [codes[pid] for pid in pids]


def nobody_asks() -> bool:
    """Whether standard input has come to its end; a next request waits for this one's answer."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


if __name__ == "__main__":
    serve()
