"""The tiny run of train.py that tests vary, a starter of its variations in ranks, and what to read
from the folder of a run.
"""

import json
import shutil
from pathlib import Path

import torch
from ranks import World
from safetensors.torch import load_file


def tiny_words(store: Path, model_config: Path, **changes) -> dict:
    """The settings of six steps on two rows a device, without held-out rows."""
    words = {
        "config_file": model_config,
        "token_store": store,
        "max_seq_length": 128,
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "eval_strategy": "no",
        "held_out_rows": 0,
        "save_steps": 2,
        "dataloader_num_workers": 0,
    }
    return words | changes


def command_line(words: dict) -> list[str]:
    """Flags with their values; None leaves a flag out."""
    given = {name: value for name, value in words.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


class TinyRun:
    """Starts variations of the tiny run.

    Args: folder: where each variation gets a run folder of its own; changes: made in all of them.
    """

    timeout = 300.0

    def __init__(self, ranks, store: Path, model_config: Path, folder: Path, **changes):
        self.ranks, self.folder = ranks, folder
        self.words = tiny_words(store, model_config, **changes)
        self.wholes: dict[str, Path] = {}

    def argv(self, name: str | Path, **changes) -> list[str]:
        return command_line(self.words | {"output_dir": self.folder / name} | changes)

    def run(
        self,
        name: str | Path,
        config: str | Path | None = None,
        world: int | None = None,
        *,
        main: str = "train",
        program: str = "",
        given: dict | None = None,
        code: int = 0,
        **changes,
    ) -> World:
        """Run until all ranks have ended with `code`.

        Args:
            name: the run folder, or a path elsewhere.
            world: None = 2 with an accelerate YAML and 1 without.
            program: one of rank_programs_accidents.py in place of `main`; `given` goes to it.
        """
        words = self.argv(name, **changes)
        world = world or (2 if config else 1)
        if program:
            main, words = f"rank_programs_accidents:{program}", [json.dumps(given), *words]
        ended = self.ranks.run(words, config=config, world=world, main=main, timeout=self.timeout)
        assert ended.codes == [code] * world, (ended.codes, ended.output[-4000:])
        return ended

    def whole(self, config: str | Path | None = None, world: int | None = None, **settings) -> Path:
        """The folder of a run that nothing disturbed; equal settings are run once."""
        key = repr((config, world, sorted(settings.items())))
        if key not in self.wholes:
            name = f"whole-{self.ranks.count}"
            self.run(name, config, world, **settings)
            self.wholes[key] = self.folder / name
        return self.wholes[key]


# ---- before a run --------------------------------------------------------------------------------


def begin_at(step: int, source: Path, run: Path) -> Path:
    """A run folder that holds one checkpoint of another."""
    shutil.copytree(source / f"checkpoint-{step}", run / f"checkpoint-{step}")
    return run


# ---- what a run leaves ---------------------------------------------------------------------------


def metrics_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path, after: int = 0) -> dict[int, float]:
    """The logged losses by step; runs that must be the same have the same."""
    lines = [line for line in metrics_of(run) if "train/loss" in line]
    return {line["step"]: line["train/loss"] for line in lines if line["step"] > after}


def exact_losses(run: Path, after: int = 0) -> dict[int, float]:
    """The losses that the newest checkpoint remembers, for runs that differ in rounding only.

    metrics.jsonl keeps six digits: at a loss of 6.9, where tiny runs begin, the last is 1.4e-6.
    """
    states = run.glob("checkpoint-*/trainer_state.json")
    newest = max(states, key=lambda path: int(path.parent.name.rpartition("-")[2]))
    state = json.loads(newest.read_text())
    lines = [line for line in state["log_history"] if "loss" in line]
    return {line["step"]: line["loss"] for line in lines if line["step"] > after}


def model_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def status_of(run: Path) -> dict:
    return json.loads((run / "status.json").read_text())


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, different
