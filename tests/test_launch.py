"""Real launches, processes and all: accelerate, torchrun, the scripts, and two machines.

Every other test of several ranks forks them in the environment that these launchers make. Two
machines are two network namespaces with an address and a host name each.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
from run_in_ranks import command_line, metrics_of, tiny_words

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow
LAUNCHED = ["accelerate", "launch", "--quiet", "--num_processes", "2", "--main_process_port", "0"]


@pytest.fixture
def environment() -> dict[str, str]:
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def flags(store, model_config, tmp_path):
    """The words of a tiny run, with changes; they replace a recipe's. None leaves a flag out."""

    def make(**changes) -> list[str]:
        settings = {
            "output_dir": tmp_path / "run",
            "attn_implementation": "sdpa",
            "max_steps": 4,
            "global_batch_size": 8,
            "bf16": "false",
            "torch_compile": "false",
        }
        return command_line(tiny_words(store, model_config, **settings) | changes)

    return make


def launch(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    return processes.run(words, timeout=300, env=environment, cwd=ROOT)


def finishes(words: list[str], environment: dict[str, str], run: Path) -> str:
    """Launch, expect the final model, return what was printed."""
    launched = launch(words, environment)
    printed = launched.stdout + launched.stderr
    assert launched.returncode == 0, printed
    assert (run / "model" / "model.safetensors").is_file(), printed
    return printed


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed"])
def test_accelerate_launches_two_processes(name, environment, flags, tmp_path):
    words = [*LAUNCHED, "--config_file", f"configs/{name}.yaml", "train.py", *flags()]
    printed = finishes(words, environment, tmp_path / "run")
    assert "on 2 process(es)" in printed


def test_torchrun_launches_fsdp_by_a_flag(environment, flags, tmp_path):
    words = ["torchrun", "--standalone", "--nproc_per_node", "2", "train.py", *flags()]
    words += ["--fsdp", "true", "--fsdp_config", '{"state_dict_type": "SHARDED_STATE_DICT"}']
    finishes(words, environment, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint-4" / "pytorch_model_fsdp_0").is_dir()


@pytest.mark.parametrize("script", ["run_ddp.sh", "run_fsdp.sh", "run_deepspeed.sh"])
def test_a_launcher_script_runs_on_as_many_processes_as_it_is_told(
    script, environment, flags, store, tmp_path
):
    run = tmp_path / "run"
    environment |= {"NUM_GPUS": "2", "TOKEN_STORE": str(store), "OUTPUT_DIR": str(run)}
    words = ["bash", f"scripts/{script}", *flags(token_store=None, output_dir=None)]
    finishes(words, environment, run)


def test_a_refusal_comes_once_and_before_what_a_bare_launcher_has_to_say(environment, flags):
    words = [*LAUNCHED, "--config_file", "configs/ddp.yaml", "train.py", *flags(fim_rate=2)]
    launched = launch(words, environment)
    assert launched.returncode == 1
    assert launched.stderr.startswith("train.py: error: fim_rate 2.0 is not a probability")
    assert launched.stderr.count("\ntrain.py: error: ") == 0


@pytest.mark.parametrize("script", ["run_ddp.sh", "run_fsdp.sh"])
def test_a_refusal_is_all_that_a_launcher_script_ends_with(script, environment, flags, tmp_path):
    """Symptom: the sentence stood above 35 lines of traceback, once a rank, and the code was 1."""
    (tmp_path / "my own.yaml").write_text("fim_rate: 2\n")
    words = ["bash", str(ROOT / "scripts" / script), "my own.yaml", *flags()]
    ended = processes.run(words, timeout=300, env=environment | {"NUM_GPUS": "2"}, cwd=tmp_path)
    last = f"comes from {tmp_path / 'my own.yaml'} line 1)"
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith(last)
    assert ended.stderr.count("train.py: error: fim_rate 2.0 is not a probability") == 1
    assert "Traceback" not in ended.stderr


def test_a_launcher_script_that_is_stopped_ends_as_its_ranks_do(
    environment, flags, start, tmp_path
):
    """Symptom: a normal STOP ended in `train.py FAILED`, with exit code 1."""
    run = tmp_path / "run"
    words = ["bash", "scripts/run_fsdp.sh", *flags(max_steps=3000, lr_scheduler_type="constant")]
    pipes = {"stderr": subprocess.PIPE, "text": True}
    launcher = start(words, env=environment | {"NUM_GPUS": "2"}, cwd=ROOT, **pipes)
    wait_for(run / "metrics.jsonl", launcher)
    (run / "STOP").touch()
    _, printed = launcher.communicate(timeout=200)
    assert launcher.returncode == 75, printed
    assert printed.splitlines()[-1].endswith("the same command goes on from here")
    assert "FAILED" not in printed


def test_several_cpu_processes_that_accelerate_does_not_start_are_refused(
    environment, flags, tmp_path
):
    """Symptom: distributed_type MULTI_CPU with two processes trained in one, in silence."""
    config = (ROOT / "configs/cpu.yaml").read_text().replace("'NO'", "MULTI_CPU")
    path = tmp_path / "cpu.yaml"
    path.write_text(config.replace("num_processes: 1", "num_processes: 2"))
    words = ["accelerate", "launch", "--quiet", "--config_file", str(path), "train.py", *flags()]
    launched = launch(words, environment)
    assert launched.returncode != 0
    assert "asked for several processes and started one" in launched.stderr


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, f"ended with {process.returncode} before {path} was there"
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def test_babysit_brings_a_killed_run_to_its_end(environment, flags, start, tmp_path):
    run = tmp_path / "run"
    words = ["bash", "scripts/babysit.sh", str(run), sys.executable, "train.py"]
    words += flags(max_steps=300, save_steps=20)
    environment |= {"FIRST_PAUSE_SECONDS": "0"}
    babysit = start(words, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(run / "checkpoint-20" / "manifest.json", babysit)
    child = Path(f"/proc/{babysit.pid}/task/{babysit.pid}/children").read_text().split()[0]
    os.kill(int(child), signal.SIGKILL)
    _, printed = babysit.communicate(timeout=200)
    assert babysit.returncode == 0, printed
    assert "restart 1 of 20" in printed
    steps = [line["step"] for line in metrics_of(run)]
    assert steps == sorted(steps)
    assert steps[-1] == 300


# ---- two machines --------------------------------------------------------------------------------

HOSTS = {"alpha": "10.71.0.1", "beta": "10.71.0.2"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines(tmp_path):
    """Two network namespaces with a cable between them; yields the words to start in one."""
    tag = str(os.getpid())
    probe = ["bash", "-c", f"ip netns add {tag} && ip netns delete {tag}"]
    if shutil.which("ip") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs iproute2 and the right to make network namespaces")
    names = {host: f"{host}{tag}" for host in HOSTS}
    ends = {host: f"{host[0]}{tag}" for host in HOSTS}
    try:
        for namespace in names.values():
            ip("netns", "add", namespace)
            folder = Path("/etc/netns") / namespace  # becomes /etc in the namespace
            folder.mkdir(parents=True)
            lines = ["127.0.0.1 localhost", *(f"{HOSTS[other]} {other}" for other in HOSTS)]
            (folder / "hosts").write_text("\n".join(lines) + "\n")
        ip("link", "add", ends["alpha"], "type", "veth", "peer", "name", ends["beta"])
        for host, namespace in names.items():
            ip("link", "set", ends[host], "netns", namespace)
            ip("-n", namespace, "addr", "add", f"{HOSTS[host]}/24", "dev", ends[host])
            ip("-n", namespace, "link", "set", ends[host], "up")
            ip("-n", namespace, "link", "set", "lo", "up")
        inside = ["unshare", "--uts", "bash", "-c", 'hostname "$0"; exec "$@"']
        yield {
            host: ["ip", "netns", "exec", namespace, *inside, host]
            for host, namespace in names.items()
        }
    finally:
        for namespace in names.values():
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)
            shutil.rmtree(Path("/etc/netns") / namespace, ignore_errors=True)


TORCHRUN = ["torchrun", "--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d"]
TORCHRUN += ["--rdzv_endpoint", "alpha:29500", "train.py", "configs/recipes/fsdp.yaml"]
ACCELERATE = ["accelerate", "launch", "--quiet", "--config_file", "configs/deepspeed.yaml"]
ACCELERATE += ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "alpha"]
ACCELERATE += ["--main_process_port", "29500", "--deepspeed_multinode_launcher", "standard"]


@pytest.mark.parametrize("launcher", ["torchrun with FSDP2", "accelerate with ZeRO-3"])
def test_two_machines_meet_and_train_as_one_world(
    machines, environment, flags, start, tmp_path, launcher
):
    """The two recipes of docs/engines.md."""
    logs = {host: (tmp_path / host).open("w") for host in machines}
    agents = []
    for rank, (host, inside) in enumerate(machines.items()):
        words = TORCHRUN
        if launcher.startswith("accelerate"):
            words = [*ACCELERATE, "--machine_rank", str(rank), "train.py"]
        words = [*inside, *words, *flags()]
        agents.append(start(words, env=environment, cwd=ROOT, stderr=logs[host]))
    codes = [agent.wait(timeout=200) for agent in agents]
    printed = "".join((tmp_path / host).read_text() for host in machines)
    assert codes == [0, 0], printed
    assert "on 2 process(es)" in printed
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_the_slurm_job_runs_on_two_machines_and_goes_on_when_queued_again(
    machines, environment, flags, start, store, tmp_path
):
    """srun is replaced by one that starts its task on both machines."""
    programs = tmp_path / "bin"
    programs.mkdir()
    tasks = "\n".join(f'{shlex.join(inside)} "$@" & pids+=($!)' for inside in machines.values())
    ends = 'for pid in "${pids[@]}"; do wait $pid || code=$?; done; exit $code'
    srun = f"while [[ $1 == --* ]]; do shift; done; code=0\n{tasks}\n{ends}"
    scontrol = 'if [ "$1" = show ]; then printf "alpha\\nbeta\\n"; fi'
    scontrol = f'echo "$@" >> "{tmp_path / "calls"}"\n{scontrol}'
    for name, text in (("srun", srun), ("scontrol", scontrol)):
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    place, run = tmp_path / "place", tmp_path / "run"
    place.mkdir()
    for name in ("scripts", "configs", "train.py", "hugcoder", "fim.py"):
        (place / name).symlink_to(ROOT / name)
    environment |= {
        "PATH": f"{programs}:{environment['PATH']}",
        "SLURM_SUBMIT_DIR": str(place),
        "SLURM_JOB_ID": "41234",
        "SLURM_JOB_NODELIST": "[alpha-beta]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "1",
        "OUTPUT_DIR": str(run),
        "TOKEN_STORE": str(store),
        "FIRST_PAUSE_SECONDS": "0",
    }
    sbatch = ["bash", str(ROOT / "scripts/slurm/pretrain.sbatch")]
    own = {"token_store": None, "output_dir": None, "lr_scheduler_type": "constant"}
    words = [*sbatch, *flags(**own, max_steps=300)]
    job = start(words, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(run / "checkpoint-4" / "manifest.json", job)
    job.send_signal(signal.SIGUSR1)
    _, printed = job.communicate(timeout=200)
    assert job.returncode == 75, printed
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "requeue 41234"
    stopped_at = json.loads((run / "status.json").read_text())["step"]
    assert 4 <= stopped_at < 300

    words = [*sbatch, *flags(**own, max_steps=stopped_at + 2)]
    again = processes.run(words, timeout=200, env=environment)
    assert again.returncode == 0, again.stderr
    assert f"checkpoint-{stopped_at}" in again.stderr
