"""Starts train.py through torchrun or accelerate, and ends as its ranks ended.

    python scripts/launch.py torchrun --standalone --nproc_per_node 2 train.py RECIPE.yaml ...
    python scripts/launch.py accelerate --config_file configs/ddp.yaml train.py RECIPE.yaml ...

It runs torchrun's or accelerate's own code in this process, so that signals reach the ranks as they
do there. It differs in what comes last and in the exit code: a refusal is said once, behind all
else; a stop or a refusal leaves no traceback; and the code is that of the rank that ended first.
scripts/run_*.sh and the SLURM job start it; words behind `--` are a user's, see `user_words`.
"""

import itertools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]
sys.path.insert(0, str(ROOT))  # a script's own folder is there, not the repository

from hugcoder.installed import why_not_loaded  # noqa: E402
from hugcoder.last_words import BY_LAUNCHER  # noqa: E402
from hugcoder.refusal import EXIT_HUNG, EXIT_REFUSED, EXIT_STOPPED, reason_of  # noqa: E402

RECIPE = "configs/recipes/pretrain_7b.yaml"  # where nobody names another
TOKEN_STORE = "data/corpus-tokens"  # the same; made by `python -m data_prep tokenize`
DEFAULT_GPUS = "8"  # of scripts/run_*.sh, where NUM_GPUS does not say it
SHOW = "show"  # in place of a launcher: print a setting of the words


def main(argv: list[str]) -> int:
    if len(argv) < 2 or argv[0] not in ("torchrun", "accelerate", SHOW):
        what = "give torchrun or accelerate, then its words, train.py and its words"
        return fail(what, EXIT_REFUSED)
    launcher, *words = argv
    if "--" in words:
        at = words.index("--")
        if {"-h", "--help"} & set(words[at:]):  # once, not by each rank
            return subprocess.call([sys.executable, str(ROOT / "train.py"), "--help"])
        words[at:] = user_words(words[at + 1 :], os.environ, Path.cwd())
    if launcher == SHOW:
        print(setting(words[1:], words[0]))
        return 0
    if wrong := wrong_number(flags_of(words)):
        return fail(wrong, EXIT_REFUSED)
    os.chdir(ROOT)
    os.environ[BY_LAUNCHER] = "1"
    share_cores(flags_of(words))
    try:
        return launch(launcher, words)
    except Exception as error:
        if not (sentence := why_not_loaded(error)):
            raise
        return fail(sentence, EXIT_REFUSED)


def wrong_number(flags: dict[str, str]) -> str:
    """What is wrong with the number of processes, "" when nothing is."""
    name = "nproc_per_node" if "nproc_per_node" in flags else "num_processes"
    given = flags.get(name, "1")
    if given in ("gpu", "cpu", "auto", "xpu"):  # torchrun's words
        return ""
    if not given.isdecimal() or not int(given):
        return f"--{name} {given} (NUM_GPUS) is no number of processes; give 1 or more"
    if given == DEFAULT_GPUS and "NUM_GPUS" not in os.environ and not has_accelerator():
        return f"{given} processes are for {given} GPUs, and here is none; try it with NUM_GPUS=2"
    return ""


def share_cores(flags: dict[str, str]) -> None:
    """Threads for each of several processes, where the user says nothing: an equal share of the
    cores. torchrun would give each one thread, whatever the machine has, and say so in four lines.
    """
    given = flags.get("nproc_per_node", "1")
    if given.isdecimal() and int(given) > 1:
        share = len(os.sched_getaffinity(0)) // int(given)
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


def has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


# ---- the words of a user -------------------------------------------------------------------------


def user_words(given: Sequence[str], environment: dict[str, str], folder: Path) -> list[str]:
    """Recipes and flags for train.py, each setting said once.

    Args:
        given: recipes, which stand in place of $RECIPE, then flags.
        environment: RECIPE, TOKEN_STORE and OUTPUT_DIR; the latter two win over a recipe.
        folder: where recipes are looked for before the repository.
    """
    named = recipes_of(given)
    flags = list(given[len(named) :])
    recipes = [found_from(folder, one) for one in named or [environment.get("RECIPE", RECIPE)]]
    run = f"runs/{Path(recipes[0]).stem}"
    for name, default in (("token_store", TOKEN_STORE), ("output_dir", run)):
        value = environment.get(name.upper())
        if name not in flags_of(flags) and (value or name not in settings_of(recipes)):
            flags += [f"--{name}", value or default]
    return recipes + flags


def recipes_of(words: Sequence[str]) -> list[str]:
    """The words before the first flag."""
    return list(itertools.takewhile(lambda word: not word.startswith("-"), words))


def found_from(folder: Path, recipe: str) -> str:
    """A recipe's path, good in the repository's folder too."""
    path = folder / recipe
    return str(path) if path.is_file() and not folder.samefile(ROOT) else recipe


def flags_of(words: Sequence[str]) -> dict[str, str]:
    """Flags and the first value of each."""
    flags = {}
    for word, following in itertools.pairwise([*words, ""]):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name.replace("-", "_")] = value if equals else following
    return flags


def settings_of(recipes: Sequence[str]) -> dict[str, str]:
    """Settings of recipes, later ones winning; train.py refuses those that cannot be read."""
    import yaml

    settings = {}
    for recipe in recipes:
        try:
            found = yaml.safe_load((ROOT / recipe).read_text(encoding="utf-8"))
        except Exception:
            continue
        if isinstance(found, dict):
            settings |= {str(name).replace("-", "_"): value for name, value in found.items()}
    return settings


def setting(words: Sequence[str], name: str) -> str:
    """What recipes and flags say about one setting, "" where they say nothing."""
    return str((settings_of(recipes_of(words)) | flags_of(words)).get(name, ""))


# ---- launching -----------------------------------------------------------------------------------


def launch(launcher: str, words: list[str]) -> int:
    """Run the launcher until all ranks have ended, and say what has to be said."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # `end_of` says it
    try:
        (run_torchrun if launcher == "torchrun" else run_accelerate)(words)
    except ChildFailedError as error:
        return end_of(error.failures)
    except subprocess.CalledProcessError as error:  # accelerate's, of one process
        return exit_code(error.returncode)
    except SignalException as error:
        return exit_code(-error.sigval)
    except (ConnectionError, DistError, RendezvousError) as error:
        return fail(f"the processes cannot meet: {reason_of(error)}", 1)
    except (ValueError, OSError) as error:
        return fail(f"{launcher} cannot start them: {reason_of(error)}", EXIT_REFUSED)
    return 0


def run_torchrun(words: list[str]) -> None:
    from torch.distributed import run

    run.run(run.parse_args(words))


def run_accelerate(words: list[str]) -> None:
    from accelerate.commands import launch as accelerate

    accelerate.launch_command(accelerate.launch_command_parser().parse_args(words))


# ---- how the ranks ended -------------------------------------------------------------------------


def end_of(failures: dict) -> int:
    """Say what ended the ranks, by torch's account of each, and give the exit code for all.

    A refusal, a hang or a stop counts before the ends of ranks that had to leave with another one.
    """
    codes = {failure.exitcode for failure in failures.values()}
    left = [failure.message for failure in failures.values() if isinstance(failure.message, dict)]
    for sentence in dict.fromkeys(message["message"] for message in left):
        print(sentence, file=sys.stderr)
    if left:
        return EXIT_REFUSED
    for code in (EXIT_REFUSED, EXIT_HUNG, EXIT_STOPPED):
        if code in codes:
            return code
    rank, failure = first_of(failures)
    if failure.exitcode < 0:
        how = f"was ended by {failure.signal_name()}"
    else:
        how = f"ended with exit code {failure.exitcode}; it said why above"
    return fail(f"rank {rank} {how}", exit_code(failure.exitcode))


def first_of(failures: dict) -> tuple:
    """The rank that ended first; among those of one second, one that was killed before those that
    lost it, and last what torchrun ended.
    """

    def order(one: tuple) -> tuple[int, int]:
        code = one[1].exitcode
        consequence = {-signal.SIGTERM: 3, -signal.SIGABRT: 2}  # gloo aborts where it lost another
        return one[1].timestamp, consequence.get(code, int(code > 0))

    return min(failures.items(), key=order)


def exit_code(returncode: int) -> int:
    """As a shell has it: 128 + the number of the signal that ended a process."""
    return returncode if returncode >= 0 else 128 - returncode


def fail(what: str, code: int) -> int:
    print(f"launch.py: {what}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
