"""How the rows of one step are shared: so many over all devices, at most so many at a time.

Pure arithmetic, so that refusals name numbers that work.
"""

from hugcoder.refusal import Refusal


def rows_at_a_time(rows_per_step: int, num_devices: int, limit: int) -> int:
    """Rows that a device takes at a time: `limit`, or its whole share where that is smaller.

    Raises: Refusal with numbers that work where the rows cannot be shared so.
    """
    share, rest = divmod(rows_per_step, num_devices)
    if rest == 0 and (share <= limit or share % limit == 0):
        return min(share, limit)
    instead = "" if rest else f"--per_device_train_batch_size {_divisor(share, limit)}, or "
    rows = " or ".join(map(str, _nearest(rows_per_step, num_devices, limit)))
    raise Refusal(
        f"global_batch_size {rows_per_step} is no multiple of {num_devices} devices x {limit} rows "
        f"(per_device_train_batch_size); give {instead}--global_batch_size {rows}."
    )


def _divisor(share: int, limit: int) -> int:
    """The most rows at a time, below the limit, that make up a device's share."""
    return next(rows for rows in range(limit, 0, -1) if share % rows == 0)


def _nearest(rows_per_step: int, num_devices: int, limit: int) -> list[int]:
    """The nearest numbers of rows, one below and one above, that can be shared."""
    grain = num_devices if rows_per_step < num_devices * limit else num_devices * limit
    below = rows_per_step // grain * grain
    return [rows for rows in (below, below + grain) if rows]
