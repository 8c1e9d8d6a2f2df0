"""Methods of transformers and trl that the trainers here replace are those that were read.

A release that changes one of them fails here. Read what has changed, repair the method of ours if
need be, then write the new hash down.
"""

import hashlib
import inspect

import pytest
from transformers import Trainer
from trl import DPOTrainer, GRPOTrainer, SFTTrainer

from hugcoder.pretraining.trainer import PretrainTrainer
from hugcoder.run.durable_trainer import DurableTrainer

# of the source, at transformers 5.23.0 and trl 1.16.0
READ = {
    "DPOTrainer._save_checkpoint": "b6ee0a370c26",
    "DPOTrainer.evaluate": "c4ef502ba33a",
    "DPOTrainer.log": "e80e122cfe5f",
    "DPOTrainer.training_step": "bba41f264647",
    "GRPOTrainer._save_checkpoint": "ec91bde12364",
    "GRPOTrainer.get_train_dataloader": "2bffe5a57c53",
    "GRPOTrainer.log": "1e7772819cc8",
    "GRPOTrainer.training_step": "9e18632f7dd8",
    "SFTTrainer._save_checkpoint": "b6ee0a370c26",
    "SFTTrainer.evaluate": "77fd4eda985f",
    "SFTTrainer.log": "0d4c8e5d64f8",
    "SFTTrainer.training_step": "bba41f264647",
    "Trainer._clip_grad_norm": "ebfa9dc91d30",
    "Trainer._get_grad_norm": "913ba6f52f07",
    "Trainer._load_rng_state": "d5ebdfc0a088",
    "Trainer._prepare_for_training": "f55950593d7e",
    "Trainer._save_checkpoint": "a9111e30faa9",
    "Trainer._save_optimizer_and_scheduler": "c5ef974db69a",
    "Trainer.compute_loss": "160dea726d2f",
    "Trainer.create_optimizer": "c798977d9dca",
    "Trainer.create_scheduler": "a9edec70a59b",
    "Trainer.evaluate": "47001f3acc99",
    "Trainer.get_decay_parameter_names": "2b0ef3a9e677",
    "Trainer.get_train_dataloader": "205a99685f8f",
    "Trainer.log": "73b8e3acd21a",
    "Trainer.save_model": "705727ee10c8",
    "Trainer.train": "9a3c2bcd066d",
    "Trainer.training_step": "e9760c8ee103",
}


def hash_of(method) -> str:
    return hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:12]


def replaced(library: type, ours: type) -> dict[str, str]:
    """Methods that `ours` replaces and `library` has itself, with their hashes."""
    names = [name for name in vars(ours) if callable(vars(ours)[name]) and name in vars(library)]
    return {
        f"{library.__name__}.{name}": hash_of(vars(library)[name])
        for name in names
        if name != "__init__"
    }


FOUND = replaced(Trainer, DurableTrainer) | replaced(Trainer, PretrainTrainer)
for behind in (SFTTrainer, DPOTrainer, GRPOTrainer):
    FOUND |= replaced(behind, DurableTrainer)


@pytest.mark.parametrize("name", sorted(FOUND | READ))
def test_a_replaced_method_is_the_one_that_was_read(name):
    assert FOUND.get(name) == READ.get(name)
