"""A tiny run of train.py in ranks, and what to read from its folder."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file


class TinyRun:
    """Words of a tiny run; `run` starts a variation of it.

    Args: folder: where each variation gets a run folder of its own.
    """

    def __init__(self, ranks, store: Path, model_config: Path, folder: Path):
        self.ranks, self.folder = ranks, folder
        self.words = {
            "config_file": model_config,
            "token_store": store,
            "max_seq_length": 128,
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "held_out_rows": 8,
            "dataloader_num_workers": 0,
        }

    def run(self, name: str, config=None, world=1, program="train", given=None, **changes):
        """Run it to its end; `given` goes to one of the programs in rank_programs_d.py."""
        values = self.words | {"output_dir": self.folder / name} | changes
        words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
        main = "train"
        if program != "train":
            main, words = f"rank_programs_d:{program}", [json.dumps(given), *words]
        return self.ranks.run(words, config=config, world=world, main=main, timeout=120)

    def metrics(self, name: str) -> list[dict]:
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def losses(self, name: str) -> dict[int, float]:
        lines = self.metrics(name)
        return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}

    def weights(self, name: str, folder: str = "model") -> dict[str, torch.Tensor]:
        return load_file(self.folder / name / folder / "model.safetensors")

    def status(self, name: str) -> dict:
        return json.loads((self.folder / name / "status.json").read_text())


def are_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
