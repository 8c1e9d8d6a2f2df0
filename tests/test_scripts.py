"""The scripts: babysit.sh restarts what dies and nothing else; a SLURM job stops in time; launch.py
gives each setting once and ends as its ranks ended.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
from processes import launch_py

from hugcoder import last_words

ROOT = Path(__file__).resolve().parents[1]
BABYSIT = ROOT / "scripts" / "babysit.sh"
SCRIPTS = sorted([*(ROOT / "scripts").rglob("*.sh"), *(ROOT / "scripts").rglob("*.sbatch")])


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Nobody sleeps."""
    program(tmp_path / "bin", "sleep", "exit 0")
    return os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def babysit(
    run: Path, command: str, environment: dict, begins: bool = True, **variables
) -> subprocess.CompletedProcess:
    """Babysit a bash command, in which $run is the folder and `again` counts its attempts.

    Args: begins: first write that the run is running, as train.py does once it knows the folder.
    """
    command = status("running") + command if begins else command
    counted = f'run="{run}"; echo >> "$run/attempts"; again=$(wc -l < "$run/attempts"); {command}'
    words = ["bash", str(BABYSIT), str(run), "bash", "-c", counted]
    variables = {name: str(value) for name, value in variables.items()}
    return processes.run(words, timeout=60, env=environment | variables)


def attempts(run: Path) -> int:
    return len((run / "attempts").read_text().splitlines())


SAVE = 'mkdir -p "$run/checkpoint-$again"; echo {} > "$run/checkpoint-$again/manifest.json"; '


def status(word: str) -> str:
    return f'echo \'{{"status": "{word}"}}\' > "$run/status.json"; '


def test_a_command_that_dies_is_started_again_until_it_finishes(run, environment):
    ended = babysit(run, "[ $again -gt 3 ] || kill -KILL $$", environment)
    assert ended.returncode == 0, ended.stderr
    assert attempts(run) == 4


def test_restarts_without_a_new_checkpoint_come_to_an_end(run, environment):
    ended = babysit(run, "exit 1", environment, MAX_RESTARTS=2)
    assert (ended.returncode, attempts(run)) == (1, 3)
    assert "2 restarts brought nothing beyond checkpoint 0; giving up" in ended.stderr


def test_a_new_checkpoint_starts_the_count_again(run, environment):
    ended = babysit(run, SAVE + "[ $again -gt 5 ]", environment, MAX_RESTARTS=1)
    assert (ended.returncode, attempts(run)) == (0, 6)


def test_a_torn_checkpoint_is_no_progress(run, environment):
    ended = babysit(run, 'mkdir "$run/checkpoint-$again"; exit 1', environment, MAX_RESTARTS=1)
    assert (ended.returncode, attempts(run)) == (1, 2)


def test_pauses_double_up_to_the_longest(run, environment):
    limits = {"MAX_RESTARTS": 4, "FIRST_PAUSE_SECONDS": 3, "LONGEST_PAUSE_SECONDS": 10}
    ended = babysit(run, "exit 1", environment, **limits)
    pauses = [line.split()[-2] for line in ended.stderr.splitlines() if "; restart " in line]
    assert pauses == ["3", "6", "10", "10"]


@pytest.mark.parametrize("command", ["exit 2", status("refused") + "exit 1"])
def test_a_refusal_is_not_tried_again(run, environment, command):
    ended = babysit(run, command, environment)
    assert (ended.returncode, attempts(run)) == (2, 1)


def test_a_refusal_of_an_earlier_attempt_does_not_count(run, environment):
    (run / "status.json").write_text('{"status": "refused"}')
    an_hour_ago = time.time() - 3600
    os.utime(run / "status.json", (an_hour_ago, an_hour_ago))
    ended = babysit(run, "[ $again -gt 1 ]", environment, begins=False)
    assert (ended.returncode, attempts(run)) == (0, 2)


def test_a_command_that_never_begins_the_run_is_tried_twice(run, environment):
    """Symptom: a mistyped flag under torchrun, exit code 1, was restarted twenty times."""
    ended = babysit(run, "exit 1", environment, begins=False)
    assert (ended.returncode, attempts(run)) == (2, 2)
    assert "ended twice before the run began" in ended.stderr


def test_a_run_stopped_by_its_stop_file_is_not_started_again(run, environment):
    ended = babysit(run, 'touch "$run/STOP"; ' + status("stopped") + "exit 1", environment)
    assert (ended.returncode, attempts(run)) == (75, 1)


def test_an_attempt_that_the_stop_file_refuses_counts_as_stopped(run, environment):
    """Symptom: a STOP in the minutes of starting up ended a SLURM job for good."""
    command = 'touch "$run/STOP"; ' + status("refused") + "exit 1"
    assert babysit(run, command, environment).returncode == 75


def test_a_run_that_was_preempted_is_started_again(run, environment):
    ended = babysit(run, status("stopped") + "[ $again -gt 1 ] || exit 75", environment)
    assert (ended.returncode, attempts(run)) == (0, 2)


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_signal_is_passed_on_and_ends_the_babysitting(tmp_path, run, start, name):
    stop = f"{status('stopped')} exit 1"
    text = f'run="{run}"; stop() {{ {stop}; }}; trap stop {name}; echo >> "$run/attempts"'
    child = program(tmp_path / "bin", "child", text + "; while :; do sleep 0.05; done")
    process = start(["bash", str(BABYSIT), str(run), str(child)])
    wait_for(run / "attempts")
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.wait(timeout=20) == 75
    assert attempts(run) == 1


@pytest.mark.parametrize(
    ("variables", "flags"),
    [
        ({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, ["--bf16", "false"]),
        ({"CXX": "no-such-compiler"}, ["--torch_compile", "false"]),
    ],
)
def test_the_quickstart_leaves_out_what_train_py_would_find_missing(tmp_path, variables, flags):
    """Symptom: /proc/cpuinfo named instructions that the run was forbidden, and it took hours."""
    for name in ("hugcoder", "scripts", "examples", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    shutil.copy(ROOT / "requirements.txt", tmp_path / ".venv" / ".requirements")
    program(tmp_path / "bin", "accelerate", f'printf "%s\\n" "$@" > "{tmp_path / "words"}"')
    program(tmp_path / "bin", "python", f'[ "$1" != -c ] || exec "{sys.executable}" "$@"')
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"} | variables
    quickstart = ["bash", str(tmp_path / "scripts" / "quickstart.sh")]
    ended = processes.run(quickstart, timeout=60, env=environment, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    words = (tmp_path / "words").read_text().splitlines()
    at = words.index(flags[0])
    assert words[at : at + 2] == flags


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    words = ["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", str(script)]
    checked = processes.run(words, timeout=60, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout


def wait_for(path: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


# ---- SLURM ---------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path, run) -> dict[str, str]:
    """SLURM's commands replaced: srun starts one task here, scontrol writes down its words."""
    folder, place = tmp_path / "bin", tmp_path / "place"
    place.mkdir()
    for name in (
        "scripts",
        "configs",
        "hugcoder",
        "train.py",
    ):  # and no .venv, which would come first in PATH
        (place / name).symlink_to(ROOT / name)
    program(folder, "srun", 'while [[ $1 == --* ]]; do shift; done\nexec "$@"')
    names = 'if [ "$1" = show ]; then printf "alpha\\nbeta\\n"; fi'
    program(folder, "scontrol", f'echo "$@" >> "{tmp_path / "calls"}"\n{names}')
    return os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(place),
        "SLURM_JOB_ID": "41234",
        "SLURM_JOB_NODELIST": "[alpha-beta]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "4",
        "OUTPUT_DIR": str(run),
        "TOKEN_STORE": "data/x",
        "FIRST_PAUSE_SECONDS": "0",
    }


SEVEN = "configs/recipes/pretrain_7b.yaml"


def launching(folder: Path, text: str) -> None:
    """A python of which scripts/launch.py answers questions, and starts nothing but `text`."""
    ask = f'if [ "$2" = show ]; then exec "{sys.executable}" "$@"; fi'
    program(folder / "bin", "python", f"{ask}\n{text}")


SBATCH = ["bash", str(ROOT / "scripts/slurm/pretrain.sbatch"), "--learning_rate", "2e-4"]


def test_the_slurm_job_starts_one_torchrun_a_machine_that_meet_on_the_first(
    tmp_path, slurm, monkeypatch
):
    from hugcoder.pretraining.arguments import DataArguments, ModelArguments, PretrainArguments
    from hugcoder.recipe import parse

    launching(tmp_path, f'printf "%s\\n" "$@" > "{tmp_path / "words"}"')
    ended = processes.run(SBATCH, timeout=60, env=slurm)
    assert ended.returncode == 0, ended.stderr
    words = (tmp_path / "words").read_text().splitlines()
    at, end = words.index("train.py"), words.index("--")
    assert words[:2] == ["scripts/launch.py", "torchrun"]
    flags = dict(zip(words[2:at:2], words[3:at:2], strict=True))
    assert flags["--nnodes"] == "2"
    assert flags["--nproc_per_node"] == "8"
    assert flags["--rdzv_endpoint"] == "alpha:21234"
    monkeypatch.chdir(ROOT)
    groups = [ModelArguments, DataArguments, PretrainArguments]
    given = launch_py().user_words(words[end + 1 :], slurm | {"RECIPE": SEVEN}, ROOT)
    _, _, training = parse(groups, words[at + 1 : end] + given, description="")
    assert training.learning_rate == 2e-4
    assert training.fsdp


UNTIL_STOP = """echo >> "$OUTPUT_DIR/attempts"
until [ -e "$OUTPUT_DIR/STOP" ]; do sleep 0.05; done
echo '{"status": "stopped"}' > "$OUTPUT_DIR/status.json"
exit 1"""


def test_a_slurm_job_at_its_time_limit_stops_the_run_and_queues_again(tmp_path, run, slurm, start):
    launching(tmp_path, UNTIL_STOP)
    job = start(SBATCH, env=slurm)
    wait_for(run / "attempts")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=30) == 75
    assert not (run / "STOP").exists()
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "requeue 41234"


def test_a_user_who_stops_a_slurm_job_finds_it_stopped(tmp_path, run, slurm, start):
    launching(tmp_path, UNTIL_STOP)
    job = start(SBATCH, env=slurm)
    wait_for(run / "attempts")
    (run / "STOP").touch()
    assert job.wait(timeout=30) == 75
    assert (run / "STOP").exists()
    assert "requeue" not in (tmp_path / "calls").read_text()


def test_a_slurm_job_takes_away_the_stop_file_it_left_and_no_other(tmp_path, run, slurm):
    launching(tmp_path, '[ ! -e "$OUTPUT_DIR/STOP" ] || exit 2')
    (run / "STOP").write_text("slurm job 41234 reached its time limit\n")
    assert processes.run(SBATCH, timeout=30, env=slurm).returncode == 0
    (run / "STOP").write_text("")
    assert processes.run(SBATCH, timeout=30, env=slurm).returncode == 2


def test_a_slurm_job_looks_for_its_run_where_the_words_say_it_is(tmp_path, run, slurm):
    """Symptom: --output_dir, and the run's STOP file was looked for elsewhere."""
    launching(tmp_path, f'touch "{tmp_path / "other" / "begun"}"')
    del slurm["OUTPUT_DIR"]
    words = [*SBATCH, "--output_dir", str(tmp_path / "other")]
    assert processes.run(words, timeout=30, env=slurm).returncode == 0
    assert (tmp_path / "other" / "begun").exists()


# ---- launch.py -----------------------------------------------------------------------------------


OWN = "token_store: own/tokens\noutput_dir: own/run\n"
STORE, RUN = "token_store", "output_dir"


@pytest.mark.parametrize(
    ("recipe", "words", "environment", "store", "folder"),
    [
        ("", [], {}, "data/corpus-tokens", "runs/pretrain_7b"),
        ("fim_rate: 0.5", ["my own.yaml"], {}, "data/corpus-tokens", "runs/my own"),
        (OWN, ["my own.yaml"], {}, "own/tokens", "own/run"),
        (OWN, ["my own.yaml", "--output_dir", "a"], {}, "own/tokens", "a"),
        (OWN, ["my own.yaml", "--output-dir=a"], {"OUTPUT_DIR": "b"}, "own/tokens", "a"),
        (OWN, ["my own.yaml"], {"TOKEN_STORE": "c", "OUTPUT_DIR": "b"}, "c", "b"),
        (OWN, [], {"RECIPE": "my own.yaml", "OUTPUT_DIR": ""}, "own/tokens", "own/run"),
        (OWN, [SEVEN, "my own.yaml", "--seed", "1"], {}, "own/tokens", "own/run"),
        ("no: [yaml", ["my own.yaml"], {}, "data/corpus-tokens", "runs/my own"),
    ],
)
def test_a_launcher_gives_each_setting_once_and_a_flag_wins(
    tmp_path, recipe, words, environment, store, folder
):
    """Symptom: `output_dir takes one value, not 2`, for a recipe behind the script's own flags."""
    launch = launch_py()
    (tmp_path / "my own.yaml").write_text(recipe)
    given = launch.user_words(words, {"RECIPE": SEVEN} | environment, tmp_path)
    assert (launch.setting(given, STORE), launch.setting(given, RUN)) == (store, folder)
    names = [word[2:].partition("=")[0].replace("-", "_") for word in given if word[:2] == "--"]
    assert len(names) == len(set(names))
    for word in given[: len(given) - 2 * len(names)]:
        assert (ROOT / word).is_file()  # from the repository's folder, where train.py is started


def said_by(rank: int, sentence: str, folder: Path) -> Path:
    """The file for the error of a rank, as torch names it."""
    path = folder / str(rank) / "error.json"
    path.parent.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(last_words.ERROR_FILE, str(path))
        last_words.say(sentence)
    return path


KILLED = "launch.py: rank 1 was ended by SIGKILL\n"
FAILED = "launch.py: rank 0 ended with exit code 1; it said why above\n"


@pytest.mark.parametrize(
    ("ranks", "code", "said"),
    [
        ([(2, "x no"), (2, "x no")], 2, "x no\n"),
        ([(-15, ""), (-15, ""), (2, "x no")], 2, "x no\n"),
        ([(1, ""), (-15, "x no")], 2, "x no\n"),  # ended while it was ending
        ([(1, ""), (2, "x no"), (2, "y no")], 2, "x no\ny no\n"),
        ([(75, ""), (-15, "")], 75, ""),
        ([(76, ""), (1, "")], 76, ""),
        ([(1, ""), (-9, ""), (-6, "")], 137, KILLED),
        ([(1, ""), (-15, "")], 1, FAILED),
    ],
)
def test_launch_py_ends_as_its_ranks_ended(tmp_path, monkeypatch, capsys, ranks, code, said):
    """Symptom: a sentence for each rank, 35 lines of traceback behind it and exit code 1."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setattr(time, "time", lambda: 1e9)  # all in one second
    monkeypatch.setenv(last_words.BY_LAUNCHER, "1")
    failures = {}
    for rank, (exit_code, sentence) in enumerate(ranks):
        path = said_by(rank, sentence, tmp_path) if sentence else tmp_path / "none"
        failures[rank] = ProcessFailure(rank, 100 + rank, exit_code, str(path))
    assert capsys.readouterr().err == ""  # the ranks leave it to their launcher
    assert launch_py().end_of(failures) == code
    assert capsys.readouterr().err == said


def test_ranks_of_a_bare_launcher_say_a_sentence_once(tmp_path, capsys):
    for rank in range(3):
        said_by(rank, "x no", tmp_path)
    said_by(3, "y no", tmp_path)
    assert capsys.readouterr().err == "x no\ny no\n"
    assert {path.parent.name for path in tmp_path.glob("*/error.json")} == {"0", "3"}


def test_a_sentence_is_said_where_it_cannot_be_left_to_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(last_words.BY_LAUNCHER, "1")
    last_words.say("no launcher")
    monkeypatch.setenv(last_words.ERROR_FILE, str(tmp_path / "not there" / "0" / "error.json"))
    last_words.say("no folder")
    assert capsys.readouterr().err == "no launcher\nno folder\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give torchrun or accelerate, then its words"),
        (["python", "train.py"], "give torchrun or accelerate, then its words"),
        (
            ["torchrun", "--nproc_per_node", "some", "train.py"],
            "--nproc_per_node some (NUM_GPUS) is",
        ),
        (["torchrun", "--nproc_per_node", "0", "train.py"], "--nproc_per_node 0 (NUM_GPUS) is"),
        (["accelerate", "--num_processes=-1", "train.py"], "--num_processes -1 (NUM_GPUS) is"),
        (["torchrun", "--nnodes", "some", "train.py"], "torchrun cannot start them: "),
        (["accelerate", "--config_file", "no.yaml", "train.py"], "accelerate cannot start them: "),
    ],
)
def test_launch_py_refuses_what_is_no_launch(words, sentence, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(last_words.BY_LAUNCHER, "")  # put back, as what it sets
    assert launch_py().main(words) == 2
    assert capsys.readouterr().err.startswith(f"launch.py: {sentence}")


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="needs .venv, as scripts/setup.sh makes")
def test_the_walk_with_seven_repositories_comes_to_its_end(tmp_path):
    place = tmp_path / "a clone"
    left_out = shutil.ignore_patterns(".*", "__pycache__")
    place.mkdir()
    for path in ROOT.iterdir():
        if path.is_dir() and path.name not in ("data", "runs") and path.name[0] != ".":
            shutil.copytree(path, place / path.name, ignore=left_out)
        elif path.is_file() and path.name[0] != ".":
            shutil.copy(path, place)
    (place / ".venv").symlink_to(ROOT / ".venv")
    ended = processes.run(["bash", "docs/walk/walk.sh"], cwd=place, timeout=1500)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said[-3000:]
    assert "Traceback" not in said
    assert "ended with code 75" in said
    stopped = place / "runs/walk/stopped"
    steps = [line for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert '"step": 40' in steps[-1]
    for name in ("one", "adapted"):
        for corpus in ("click", "corpus"):
            results = place / f"runs/walk/{name}/on-{corpus}/results.json"
            assert json.loads(results.read_text())["bits_per_byte"]["model"]
