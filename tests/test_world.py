"""The world check: what a launcher asked for and would not get in silence ends in one sentence."""

import json
import os

import pytest
import torch
import yaml
from ranks import ROOT, launch_environment, variant

from hugcoder.engines import world
from hugcoder.engines.hybrid import COPIES, OPEN, SHARDS, fill_in_copies, sizes
from hugcoder.engines.launched import launched_processes, launched_with
from hugcoder.engines.world import _check_deepspeed_numbers, check_launch
from hugcoder.refusal import Refusal

OURS = ["cpu.yaml", "ddp.yaml", "fsdp.yaml", "hsdp.yaml"]
OURS += ["deepspeed.yaml", "deepspeed_zero1.yaml", "deepspeed_zero2.yaml"]


@pytest.fixture
def arguments(tmp_path):
    from hugcoder.pretraining.arguments import PretrainArguments

    return PretrainArguments(output_dir=str(tmp_path))


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """Puts this process into the environment of a YAML with changes."""

    def launch(name: str, world: int = 2, **changes) -> None:
        for key, value in launch_environment(variant(tmp_path, name, **changes), world).items():
            monkeypatch.setenv(key, value)
        if launched_with("DEEPSPEED"):
            rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(world)}
            for key, value in (rank | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}).items():
                monkeypatch.setenv(key, value)

    return launch


@pytest.mark.parametrize("name", OURS)
def test_our_own_files_are_as_they_should_be(arguments, launched, name):
    launched(name, world=1 if name == "cpu.yaml" else 8)
    check_launch(arguments)


def test_deepspeed_without_a_launcher_is_refused(arguments, launched, monkeypatch):
    """Symptom: DeepSpeed looked for an MPI launcher, and mpi4py is not installed."""
    launched("deepspeed.yaml", world=1)
    monkeypatch.delenv("RANK")
    with pytest.raises(Refusal, match="but not RANK, which a launcher sets too: start with"):
        check_launch(arguments)


def test_several_processes_that_accelerate_would_not_start_are_refused(arguments, launched):
    launched("cpu.yaml", distributed_type="MULTI_CPU", num_processes=2)
    with pytest.raises(Refusal, match="asked for several processes and started one"):
        check_launch(arguments)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cp", "packed documents would see each other"),
        ("tp", "every process would train the whole model"),
        ("sp", "cuts rows over processes"),
    ],
)
def test_parallelism_that_cuts_rows_or_matrices_is_refused(arguments, launched, name, reason):
    size = {f"parallelism_config_{name}_size": 2, "parallelism_config_dp_replicate_size": 1}
    launched("hsdp.yaml", world=8, parallelism_config=size)
    with pytest.raises(
        Refusal, match=f"parallelism_config_{name}_size 2 is not possible.*{reason}"
    ):
        check_launch(arguments)


def test_hybrid_sharding_fits_any_number_of_processes():
    for processes in range(1, 33):
        copies, shards = sizes(OPEN, OPEN, processes)
        assert copies * shards == processes
        assert copies == (2 if processes in range(4, 33, 2) else 1)
        for machines in (2, 4):
            if processes % machines == 0 and processes > machines:
                assert sizes(OPEN, OPEN, processes, machines) == (machines, processes // machines)
        for divisor in range(1, processes + 1):
            if processes % divisor == 0 and divisor < processes:
                assert sizes(divisor, OPEN, processes) == (divisor, processes // divisor)
                assert sizes(divisor, processes // divisor, processes) == sizes(
                    OPEN, processes // divisor, processes
                )


@pytest.mark.parametrize(("copies", "shards"), [(2, 4), (4, OPEN), (OPEN, 1), (1, 1), (0, OPEN)])
def test_copies_and_shards_that_are_not_the_processes_are_refused(
    launched, monkeypatch, tmp_path, copies, shards
):
    """Symptom: 35 lines of traceback from accelerate, whose total_size does not match."""
    from hugcoder.pretraining.arguments import PretrainArguments

    given = {"dp_replicate_size": copies, "dp_shard_size": shards}
    section = {f"parallelism_config_{name}": value for name, value in given.items()}
    launched("hsdp.yaml", world=6, parallelism_config=section)
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(
        Refusal, match=f"_size {copies}, .*_size {shards} do not make up 6 process.*-1 for both"
    ):
        PretrainArguments(output_dir=str(tmp_path)).join()


@pytest.mark.parametrize(("world", "said"), [(1, None), (2, None), (6, "2x3"), (8, "2x4")])
def test_what_accelerate_reads_of_hybrid_sharding(launched, monkeypatch, world, said):
    launched("hsdp.yaml", world=world)
    monkeypatch.setenv("WORLD_SIZE", str(world))
    fill_in_copies()
    assert launched_with("PARALLELISM_CONFIG") == (said is not None)
    if said:
        assert f"{os.environ[COPIES]}x{os.environ[SHARDS]}" == said


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_in_the_yaml_that_the_recipe_does_not_say_is_refused(
    arguments, launched, precision
):
    launched("ddp.yaml", mixed_precision=precision)
    with pytest.raises(Refusal, match=f"mixed_precision {precision}, but the recipe says no"):
        check_launch(arguments)


def test_a_precision_in_the_yaml_that_agrees_with_the_recipe_is_taken(arguments, launched):
    arguments.bf16 = True
    launched("ddp.yaml", mixed_precision="bf16")
    check_launch(arguments)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_in_a_file_of_deepspeed_that_the_recipe_does_not_say_is_refused(
    tiny, tmp_path, precision
):
    """Symptom: a traceback where the processor lacks it, another precision where it does not."""
    path = tmp_path / "zero.json"
    path.write_text(
        json.dumps(
            {
                "zero_optimization": {"stage": 2},
                **dict.fromkeys(("gradient_accumulation_steps", "gradient_clipping"), "auto"),
                "train_micro_batch_size_per_gpu": "auto",
                precision: {"enabled": True},
            }
        )
    )
    given = yaml.safe_load((ROOT / "configs" / "deepspeed.yaml").read_text())["deepspeed_config"]
    changes = dict.fromkeys(given) | {"deepspeed_config_file": str(path)}
    config = variant(tmp_path, "deepspeed.yaml", deepspeed_config=changes)
    refused = tiny.run("run", config, code=2)
    assert f"DeepSpeed's configuration says {precision}, but the recipe says no" in refused.output


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"gradient_clipping": None},
            "no gradient_clipping, so max_grad_norm 1 would",
        ),
        ({"gradient_clipping": 0.5}, "gradient_clipping 0.5, but by the recipe it is 1.0"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps 4, but by the recipe"),
        ({"scheduler": {"type": "WarmupLR"}}, "a section scheduler, which would replace the recip"),
        ({"optimizer": {"type": "AdamW"}}, "a section optimizer, which would replace the recipe's"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_deepspeed_would_do_in_place_of_the_recipe_is_refused(arguments, changes, sentence):
    """Symptom: max_grad_norm without effect, another schedule, or a traceback; exit code 0 or 1."""
    said = {"gradient_clipping": "auto", "gradient_accumulation_steps": "auto"} | changes
    config = {name: value for name, value in said.items() if value is not None}
    with pytest.raises(Refusal, match=sentence):
        _check_deepspeed_numbers(config, arguments)


def test_deepspeed_numbers_that_are_the_recipes_are_taken(arguments):
    _check_deepspeed_numbers({"gradient_clipping": "auto"}, arguments)
    _check_deepspeed_numbers({"gradient_clipping": 1.0, "train_batch_size": 8}, arguments)


def test_a_compiler_in_the_yaml_that_the_recipe_does_not_say_is_refused(arguments, launched):
    launched("ddp.yaml", dynamo_config={"dynamo_backend": "INDUCTOR"})
    with pytest.raises(Refusal, match="dynamo_backend INDUCTOR, but the recipe does not compile"):
        check_launch(arguments)


@pytest.mark.parametrize(
    ("name", "engine"), [("fsdp.yaml", "FSDP"), ("deepspeed.yaml", "DEEPSPEED")]
)
def test_fsdp_in_the_recipe_over_an_engine_in_the_yaml_is_refused(
    arguments, launched, name, engine
):
    arguments.fsdp = True
    launched(name)
    with pytest.raises(
        Refusal, match=f"fsdp was given and accelerate's YAML already says {engine}"
    ):
        check_launch(arguments)


def test_the_processes_that_mpi_started_are_counted(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert launched_processes() == 4


@pytest.mark.parametrize("word", ["true", "True", "1", "yes"])
def test_an_engine_is_on_in_every_spelling_that_a_library_takes(monkeypatch, word):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", word)
    assert launched_with("FSDP")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert not launched_with("FSDP")


def test_the_batch_is_the_same_where_mpi_started_the_processes(ranks):
    world = ranks.run([], main="rank_programs_engines:show_batch_under_mpi")
    assert world.codes == [0, 0], world.output
    assert "2 processes x 1 rows x 4 = 8 rows" in world.of_rank(0)


def test_a_batch_that_would_not_be_the_one_given_is_refused(tmp_path, monkeypatch):
    from hugcoder.pretraining.arguments import PretrainArguments
    from hugcoder.run import arguments

    monkeypatch.setattr(arguments, "launched_processes", lambda: 2)  # as one of two without a world
    made = PretrainArguments(output_dir=str(tmp_path), global_batch_size=16)
    with pytest.raises(Refusal, match=r"global_batch_size 16 would be 8 rows: 2 .* 1 train tog"):
        made.join()


def test_recomputation_that_the_yaml_asks_for_is_refused_with_the_recipes_setting(
    arguments, launched
):
    launched("fsdp.yaml", fsdp_config={"fsdp_activation_checkpointing": True})
    with pytest.raises(Refusal, match=r"Leave it out of .* give --activation_checkpointing true"):
        check_launch(arguments)


def test_recomputation_that_a_recipes_fsdp_config_asks_for_is_refused(tmp_path):
    from hugcoder.pretraining.arguments import PretrainArguments

    fsdp = {"auto_wrap_policy": "NO_WRAP", "activation_checkpointing": True}
    arguments = PretrainArguments(output_dir=str(tmp_path), fsdp=True, fsdp_config=fsdp)
    with pytest.raises(Refusal, match="the recipe sets recomputation"):
        check_launch(arguments)
    arguments.fsdp_config["activation_checkpointing"] = False
    check_launch(arguments)


def test_processes_that_do_not_train_together_are_refused(arguments, monkeypatch):
    from accelerate import Accelerator

    from hugcoder.engines.world import check_world

    alone = Accelerator(cpu=True)
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(Refusal, match="2 processes were launched, but 1 train together"):
            check_world(alone, arguments)
    for engine, words in (("FSDP", "fsdp was asked for"), ("DEEPSPEED", "DeepSpeed was asked for")):
        with monkeypatch.context() as patch:
            patch.setenv(f"ACCELERATE_USE_{engine}", "true")
            with pytest.raises(Refusal, match=f"{words}, but the engine is NO"):
                check_world(alone, arguments)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("fsdp.yaml", "hold 40 parameters together, but 20 were to be sharded (engine FSDP)"),
        ("ddp.yaml", "the engine is MULTI_CPU, but the model is a bare Linear"),
    ],
)
def test_a_model_that_is_not_sharded_as_asked_is_refused_by_all_ranks(ranks, config, sentence):
    world = ranks.run([], config=config, main="rank_programs_engines:check_a_whole_model")
    assert world.codes == [2, 2]
    assert sentence in world.of_rank(0)
    assert sentence in world.of_rank(1)


@pytest.mark.parametrize("version", [1, None])
def test_fsdp1_is_refused_and_is_what_a_yaml_without_a_version_means(arguments, launched, version):
    launched("fsdp.yaml", fsdp_config={"fsdp_version": version})
    with pytest.raises(Refusal, match=r"this would be FSDP1.*write fsdp_version: 2"):
        check_launch(arguments)


@pytest.mark.parametrize(
    ("backend", "device", "is_right"),
    [
        ("nccl", "cuda", True),
        ("cuda:nccl,cpu:gloo", "cuda", True),  # as accelerate makes it where shards are offloaded
        ("gloo", "cuda", False),
        ("cuda:gloo,cpu:gloo", "cuda", False),
        ("gloo", "cpu", True),
    ],
)
def test_processes_on_gpus_talk_through_nccl(backend, device, is_right, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    if is_right:
        world._check_backend(device)
    else:
        with pytest.raises(Refusal, match=f"but train on {device}"):
            world._check_backend(device)
