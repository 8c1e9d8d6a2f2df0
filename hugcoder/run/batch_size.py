"""Shares the rows of one step over devices, with a limit on rows at a time.

Pure arithmetic, so that refusals name numbers that work.
"""

from hugcoder.refusal import Refusal


def rows_at_a_time(rows_per_step: int, num_devices: int, limit: int) -> int:
    """Return a device's rows at a time: `limit`, or its whole share if that is smaller.

    Raises: Refusal with numbers that work, when the rows cannot be shared.
    """
    share, rest = divmod(rows_per_step, num_devices)
    if rest == 0 and (share <= limit or share % limit == 0):
        return min(share, limit)
    instead = "" if rest else f"--per_device_train_batch_size {_divisor(share, limit)}, or "
    rows = " or ".join(map(str, _nearest(rows_per_step, num_devices, limit)))
    raise Refusal(
        f"global_batch_size {rows_per_step} is not a multiple of {num_devices} devices x {limit} "
        f"rows (per_device_train_batch_size); give {instead}--global_batch_size {rows}."
    )


def _divisor(share: int, limit: int) -> int:
    """Return the largest number of rows, up to the limit, that divides a device's share."""
    return next(rows for rows in range(limit, 0, -1) if share % rows == 0)


def _nearest(rows_per_step: int, num_devices: int, limit: int) -> list[int]:
    """Return the nearest numbers of rows below and above that can be shared."""
    grain = num_devices if rows_per_step < num_devices * limit else num_devices * limit
    below = rows_per_step // grain * grain
    return [rows for rows in (below, below + grain) if rows]
