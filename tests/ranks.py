"""Starts worlds of ranks in the rank server, in the environment of a real accelerate YAML or of one
with changes.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import processes
import yaml

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class World:
    """What became of the ranks of one launch."""

    codes: list[int]
    log: Path

    @property
    def output(self) -> str:
        return "".join(self.of_rank(rank) for rank in range(len(self.codes)))

    def of_rank(self, rank: int) -> str:
        return Path(f"{self.log}.{rank}").read_text()


class Ranks:
    """A rank server and the launches it is asked for."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        self.server = processes.start(
            [sys.executable, str(ROOT / "tests" / "rank_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "server.log").open("w"),
            text=True,
            cwd=ROOT,
        )
        self._answer()

    def _answer(self):
        line = self.server.stdout.readline()
        assert line, "the rank server died: " + (self.folder / "server.log").read_text()
        return json.loads(line)

    def start(
        self,
        argv: list[str],
        *,
        world: int = 2,
        config: str | Path | None = None,
        main: str = "train",
        env: dict[str, str] | None = None,
        timeout: float = 300.0,
        grace: float = 20.0,
    ) -> list[int]:
        """Start a world and return the process ids of its ranks.

        Args:
            config: accelerate YAML, relative to configs/ or a path; None = as plain torchrun.
            main: module, or module:function, that gets the words.
            grace: seconds that ranks may outlive one that failed.
        """
        self.count += 1
        environment = launch_environment(config, world) if config else {}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        environment |= {"OMP_NUM_THREADS": "1"} | (env or {})
        request = {
            "world": world,
            "argv": [str(word) for word in argv],
            "env": environment,
            "main": main,
            "log": str(self.folder / f"{self.count:04d}.log"),
            "timeout": timeout,
            "grace": grace,
            "as_world": config is not None,
        }
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return self._answer()

    def wait(self) -> World:
        """The end of the world that `start` began."""
        return World(self._answer(), self.folder / f"{self.count:04d}.log")

    def run(self, argv: list[str], **settings) -> World:
        self.start(argv, **settings)
        return self.wait()

    def close(self) -> None:
        self.server.stdin.close()  # it ends the ranks that are still there
        with suppress(subprocess.TimeoutExpired):
            self.server.wait(timeout=30)
        processes.end(self.server)


def launch_environment(config: str | Path, world: int) -> dict[str, str]:
    """What `accelerate launch --config_file CONFIG --num_processes WORLD` adds to ours."""
    from accelerate.commands.config import load_config_from_file
    from accelerate.commands.launch import (
        _validate_launch_command,
        launch_command_parser,
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    path = ROOT / "configs" / config
    words = ["--config_file", str(path), "--num_processes", str(world)]
    words += ["--main_process_port", "0", "train.py"]
    args = launch_command_parser().parse_args(words)
    args, _, _ = _validate_launch_command(args)
    if args.use_deepspeed:
        fields = load_config_from_file(str(path)).deepspeed_config
        args.deepspeed_fields_from_accelerate_config = ",".join(fields)
        environment = prepare_deepspeed_cmd_env(args)[1]
    elif args.multi_gpu or args.use_fsdp:
        environment = prepare_multi_gpu_env(args)
    else:
        environment = prepare_simple_launcher_cmd_env(args)[1]
    return {name: value for name, value in environment.items() if os.environ.get(name) != value}


def variant(folder: Path, name: str, **changes) -> Path:
    """An accelerate YAML with other values; sections are merged, None takes a key out."""
    config = yaml.safe_load((ROOT / "configs" / name).read_text())
    for key, value in changes.items():
        is_section = isinstance(value, dict)
        config[key] = without_none(config.get(key, {}) | value) if is_section else value
    path = folder / f"changed_{name}"
    path.write_text(yaml.safe_dump(without_none(config)))
    return path


def without_none(values: dict) -> dict:
    return {key: value for key, value in values.items() if value is not None}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
