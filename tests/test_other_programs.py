"""The model folder opens in programs that are not this one."""

import json
import os
import subprocess
import sys

import pytest
import torch

TRANSFORMERS_4 = ["transformers==4.57.3", "tokenizers==0.22.1", "huggingface_hub==0.36.0"]
PROGRAM = """
import json, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer(sys.argv[2], return_tensors="pt").input_ids
with torch.no_grad():
    logits = model(ids).logits[0, -1]
print(json.dumps({"version": transformers.__version__, "ids": ids[0].tolist(),
                  "use_cache": model.config.use_cache, "rope_theta": model.config.rope_theta,
                  "logits": logits.tolist()}))
"""


@pytest.mark.slow
def test_transformers_4_gives_the_same_ids_and_logits(store, model_config, tmp_path):
    import train
    from hugcoder.data.codec import Codec
    from hugcoder.generation.loading import load_checkpoint

    folder = tmp_path / "transformers4"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    if subprocess.run([*pip, *TRANSFORMERS_4], capture_output=True).returncode:
        pytest.skip("needs a package index to install transformers 4 from")
    words = {"config_file": model_config, "token_store": store, "output_dir": tmp_path / "run"}
    words |= {"max_seq_length": 128, "max_steps": 1, "dataloader_num_workers": 0}
    words |= {"held_out_rows": 0, "save_strategy": "no"}
    train.main([word for name, value in words.items() for word in (f"--{name}", str(value))])

    model_folder, text = tmp_path / "run" / "model", "def f(x):\n    return x <fim_middle>"
    command = [sys.executable, "-c", PROGRAM, str(model_folder), text]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    theirs = json.loads(ran.stdout.splitlines()[-1])
    assert theirs["version"].startswith("4.")
    assert theirs["use_cache"] is True
    assert theirs["rope_theta"] == 10000.0
    marker = Codec(model_folder).special_ids["<fim_middle>"]
    assert theirs["ids"][-1] == marker  # other programs read sentinels in a prompt as sentinels
    model, _ = load_checkpoint(str(model_folder), device="cpu", dtype="float32")
    ours = model(torch.tensor([theirs["ids"]])).logits[0, -1]
    assert torch.allclose(ours, torch.tensor(theirs["logits"]), atol=1e-4)
