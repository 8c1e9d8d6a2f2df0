"""How the rows of a step are shared, against trying every way."""

import re

import pytest

from hugcoder.refusal import Refusal
from hugcoder.run.batch_size import rows_at_a_time


@pytest.mark.parametrize("limit", [1, 3, 4, 8])
@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_rows_are_shared_wherever_that_is_possible_and_refusals_name_numbers_that_work(
    devices, limit
):
    for rows in range(1, 70):
        share, rest = divmod(rows, devices)
        is_possible = rest == 0 and (share <= limit or share % limit == 0)
        try:
            taken = rows_at_a_time(rows, devices, limit)
        except Refusal as refusal:
            assert not is_possible
            for name, number in re.findall(r"--(\w+) (\d+)", str(refusal)):
                other = int(number)
                if name == "global_batch_size":
                    rows_at_a_time(other, devices, limit)
                else:
                    assert rows_at_a_time(rows, devices, other) == other
            for other in re.findall(r"or (\d+)\.$", str(refusal)):
                rows_at_a_time(int(other), devices, limit)
        else:
            assert is_possible
            assert taken <= limit
            assert rows % (devices * taken) == 0


def test_a_share_below_the_limit_is_taken_at_once():
    assert rows_at_a_time(8, 2, 8) == 4
