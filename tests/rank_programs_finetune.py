"""A finetuning program of a few lines: trl's SFTTrainer behind DurableTrainer, full or LoRA.

What finetune.py will be in small: no line of it is about checkpoints, resuming or signals.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from hugcoder.recipe import parse
from hugcoder.run.arguments import RunArguments
from hugcoder.run.durable_trainer import DurableTrainer
from hugcoder.run.identity import Identity
from hugcoder.run.material import Material
from hugcoder.run.session import session
from hugcoder.setting import with_help


@dataclass
class FinetuneArguments(RunArguments, SFTConfig):
    base: str = with_help("", "Folder of the model.")
    lora: bool = with_help(False, "Train adapters alone.")
    merge: bool = with_help(False, "Write adapters as part of the model.")
    kill_at: int = with_help(0, "Step behind which the process is killed; 0 = none.")
    stop_at: int = with_help(0, "Step at whose end a SIGTERM comes; 0 = none.")
    bad_at: int = with_help(0, "Step whose loss on rank 1 is no number; 0 = none.")


class FinetuneTrainer(DurableTrainer, SFTTrainer):
    pass


class IllTrainer(FinetuneTrainer):
    """Has a loss that is no number once, on rank 1."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        is_ill = self.state.global_step + 1 == self.args.bad_at and self.args.process_index == 1
        return loss * float("nan") if is_ill else loss


class Accident(TrainerCallback):
    """Kills its process at the end of a step, or asks for the end of the run."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == args.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if state.global_step == args.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def rows() -> Dataset:
    numbers = range(60)
    texts = [f"def f{i}(x):\n    return x + {i * 7 % 13}\n" * (1 + i % 3) for i in numbers]
    return Dataset.from_dict({"prompt": [f"Add {i}.\n" for i in numbers], "completion": texts})


def main(argv: list[str]) -> None:
    arguments = parse([FinetuneArguments], argv, description="Finetune.")
    with session(arguments) as start:
        base = Path(arguments.base)
        arguments.fix_length(len(rows()))
        identity = Identity({"seed": arguments.seed, "lora": arguments.lora})
        if start.is_finished(identity):
            return
        resume_from = start.checkpoint_to_resume(identity)
        start.record([arguments], identity, {}, resume_from)
        trainer = (IllTrainer if arguments.bad_at else FinetuneTrainer)(
            model=AutoModelForCausalLM.from_pretrained(base),
            args=arguments,
            train_dataset=rows(),
            processing_class=AutoTokenizer.from_pretrained(base),
            peft_config=lora() if arguments.lora else None,
            material=Material(identity.facts, base),
            watchdog=start.watchdog,
        )
        trainer.add_callback(Accident())
        start.train(trainer, resume_from)
        trainer.export(merge_adapters=arguments.merge)


def lora():
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear")
