"""Programs of a few lines that train by a Trainer of trl behind DurableTrainer.

What finetune.py and align.py will be in small: no line of them is about checkpoints, resuming or
signals.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from hugcoder.recipe import parse
from hugcoder.run.arguments import RunArguments
from hugcoder.run.durable_trainer import DurableTrainer
from hugcoder.run.identity import Identity
from hugcoder.run.material import Material
from hugcoder.run.session import session
from hugcoder.setting import with_help

NUMBERS = range(60)
PROMPTS = [f"Add {i}.\n" for i in NUMBERS]
ANSWERS = [f"def f{i}(x):\n    return x + {i * 7 % 13}\n" * (1 + i % 3) for i in NUMBERS]


@dataclass
class Accidents:
    base: str = with_help("", "Folder of the model.")
    lora: bool = with_help(False, "Train adapters alone.")
    merge: bool = with_help(False, "Write adapters as part of the model.")
    kill_at: int = with_help(0, "Step behind which the process is killed; 0 = none.")
    stop_at: int = with_help(0, "Step at whose end a SIGTERM comes; 0 = none.")
    bad_at: int = with_help(0, "Step whose loss on rank 1 is no number; 0 = none.")


@dataclass
class FinetuneArguments(RunArguments, Accidents, SFTConfig):
    pass


@dataclass
class PreferenceArguments(RunArguments, Accidents, DPOConfig):
    pass


@dataclass
class RewardArguments(RunArguments, Accidents, GRPOConfig):
    pass


class FinetuneTrainer(DurableTrainer, SFTTrainer):
    pass


class IllTrainer(FinetuneTrainer):
    """Has a loss that is not a number once, on rank 1."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        is_ill = self.state.global_step + 1 == self.args.bad_at and self.args.process_index == 1
        return loss * float("nan") if is_ill else loss


class PreferenceTrainer(DurableTrainer, DPOTrainer):
    pass


class RewardTrainer(DurableTrainer, GRPOTrainer):
    pass


class Accident(TrainerCallback):
    """Kills its process at the end of a step, or asks for the end of the run."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == args.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if state.global_step == args.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def finetune(argv: list[str]) -> None:
    arguments = parse([FinetuneArguments], argv, description="Finetune.")
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear")
    rows = Dataset.from_dict({"prompt": PROMPTS, "completion": ANSWERS})
    kind = IllTrainer if arguments.bad_at else FinetuneTrainer
    settings = {"train_dataset": rows, "peft_config": lora if arguments.lora else None}
    run(arguments, kind, settings)


def prefer(argv: list[str]) -> None:
    arguments = parse([PreferenceArguments], argv, description="Prefer one answer to another.")
    worse = ["    pass\n"] * len(ANSWERS)
    rows = {"prompt": PROMPTS, "chosen": ANSWERS, "rejected": worse}
    run(arguments, PreferenceTrainer, {"train_dataset": Dataset.from_dict(rows)})


def reward(argv: list[str]) -> None:
    arguments = parse([RewardArguments], argv, description="Reward answers.")

    def variety(completions: list[str], **kwargs) -> list[float]:
        return [float(len(set(text))) for text in completions]

    settings = {"train_dataset": Dataset.from_dict({"prompt": PROMPTS}), "reward_funcs": variety}
    run(arguments, RewardTrainer, settings)


def run(arguments: RunArguments, trainer_class: Callable[..., DurableTrainer], settings: dict):
    with session(arguments) as start:
        base = Path(arguments.base)
        arguments.fix_length(len(NUMBERS))
        identity = Identity({"seed": arguments.seed, "lora": arguments.lora})
        if start.is_finished(identity):
            return
        resume_from = start.checkpoint_to_resume(identity)
        start.record([arguments], identity, {}, resume_from)
        trainer = trainer_class(
            model=AutoModelForCausalLM.from_pretrained(base),
            args=arguments,
            processing_class=AutoTokenizer.from_pretrained(base),
            material=Material(identity.facts, base),
            watchdog=start.watchdog,
            **settings,
        )
        trainer.add_callback(Accident())
        start.train(trainer, resume_from)
        trainer.export(merge_adapters=arguments.merge)
