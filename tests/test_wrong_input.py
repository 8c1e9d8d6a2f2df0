"""Wrong values, recipes, files and environments, drawn for every entry point: each ends well or in
one sentence, never in a traceback, and inputs stay as they were.

WRONG_INPUT_SEED and WRONG_INPUT_COUNT draw others and more; tests/wrong_input_run.py draws by hand.
"""

import os
import re

import pytest
import wrong_input
import wrong_input_run

SEED = int(os.environ.get("WRONG_INPUT_SEED", "1"))
COUNT = int(os.environ.get("WRONG_INPUT_COUNT", "200"))
FEW = 30
COMMANDS = 20
NEEDS_RUN = re.compile(r"\bin/(run|begun|foreign)\b")

# Faults that are known: a pattern of "PROGRAM: FAULT OF THE INPUT: ENDING" -> where it belongs
KNOWN: dict[str, str] = {
    r"^data_prep: a (wrong value|recipe's value) of sources: a traceback": "data_prep: sources",
    r"^data_prep: (fifo|json_\w+) .*: ended by signal 9": "data_prep: a pipe among the files",
    r"^data_prep: odd (names|rows) .*surrogates not allowed": "data_prep: names and licences",
    r"json_deep of .*RecursionError.* decoding a JSON": "hugcoder.pretrained and others",
    r"TORCH_LOGS=perhaps": "the import of torch refuses its own variable",
}


@pytest.fixture(scope="module")
def small_world(ranks, tmp_path_factory):
    return wrong_input_run.make_world(tmp_path_factory.mktemp("small"), ranks, with_run=False)


@pytest.fixture(scope="module")
def world(ranks, tmp_path_factory):
    return wrong_input_run.make_world(tmp_path_factory.mktemp("world"), ranks)


def assert_all_end_well(indices, world, folder, server) -> None:
    """Fails with everything that did not, and how to see it again."""
    found = []
    for index, case, ending, fault in wrong_input_run.endings(SEED, indices, world, folder, server):
        line = f"{case.program}: {case.what}: {fault}"
        if fault and not any(re.search(pattern, line) for pattern in KNOWN):
            again = f"python tests/wrong_input_run.py --seed {SEED} --first {index} --count 1"
            again += "" if server else " --as_command"
            found.append(f"{line}\n{case.shown[:2000]}\n{ending.errors[-1500:]}\nagain: {again}\n")
    assert not found, "\n".join([f"{len(found)} of {len(indices)} cases:", *found])


def test_a_few_wrong_inputs_of_every_kind_end_in_one_sentence(small_world, ranks, tmp_path):
    drawn = ((index, wrong_input.draw(SEED, index)) for index in range(100_000))
    fits = (i for i, case in drawn if not NEEDS_RUN.search(" ".join([*case.argv, str(case.files)])))
    assert_all_end_well([next(fits) for _ in range(FEW)], small_world, tmp_path / "few", ranks)


@pytest.mark.slow
def test_drawn_wrong_inputs_end_in_one_sentence(world, ranks, tmp_path):
    assert_all_end_well(range(COUNT), world, tmp_path / "drawn", ranks)


@pytest.mark.slow
def test_real_commands_with_wrong_inputs_end_in_one_sentence(world, tmp_path):
    """Half of them in an environment that only a start reads."""
    drawn = {index: wrong_input.draw(SEED, index) for index in range(COUNT, COUNT + 2000)}
    at_start = [index for index, case in drawn.items() if case.is_seen_at_start][: COMMANDS // 2]
    others = [index for index in drawn if index not in at_start][: COMMANDS - len(at_start)]
    assert_all_end_well([*at_start, *others], world, tmp_path / "commands", None)
