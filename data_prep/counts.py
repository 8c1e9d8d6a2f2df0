"""Counting files and bytes so that what was read equals what was kept, dropped and taken out."""

from dataclasses import asdict, dataclass, field
from typing import Any

NUM_SAMPLES = 5  # files shown of each reason
NUM_TOLD = 3  # reasons in a sentence


@dataclass
class Amount:
    """A number of files and their bytes."""

    files: int = 0
    bytes: int = 0

    def add(self, files: int, num_bytes: int) -> None:
        self.files += files
        self.bytes += num_bytes


@dataclass
class Drops:
    """What one reason took, with the first few files it took."""

    files: int = 0
    bytes: int = 0
    samples: list[str] = field(default_factory=list)

    def add(self, files: int, num_bytes: int, samples: list[str]) -> None:
        self.files += files
        self.bytes += num_bytes
        self.samples += samples[: NUM_SAMPLES - len(self.samples)]


@dataclass
class Counts:
    """What was read, kept and dropped for which reason.

    changed: files whose text a rule changed, and the bytes it took out (below 0 where it added).
    """

    read: Amount = field(default_factory=Amount)
    kept: Amount = field(default_factory=Amount)
    dropped: dict[str, Drops] = field(default_factory=dict)
    changed: Amount = field(default_factory=Amount)

    def drop(self, reason: str, files: int, num_bytes: int, samples: list[str]) -> None:
        self.dropped.setdefault(reason, Drops()).add(files, num_bytes, samples)

    def merge(self, other: "Counts") -> None:
        """Add what another chunk counted."""
        self.read.add(other.read.files, other.read.bytes)
        self.kept.add(other.kept.files, other.kept.bytes)
        self.changed.add(other.changed.files, other.changed.bytes)
        for reason, drops in other.dropped.items():
            self.drop(reason, drops.files, drops.bytes, drops.samples)

    def check(self) -> None:
        """Assert that the sums add up to the input."""
        for unit in ("files", "bytes"):
            dropped = sum(getattr(drops, unit) for drops in self.dropped.values())
            read, kept = getattr(self.read, unit), getattr(self.kept, unit)
            kept += self.changed.bytes if unit == "bytes" else 0
            assert read == kept + dropped, f"{unit}: read {read} != kept {kept} + dropped {dropped}"

    def largest_reasons(self) -> list[tuple[str, Drops]]:
        """Reasons by files taken, most first."""
        return sorted(self.dropped.items(), key=lambda item: (-item[1].files, item[0]))

    def told(self) -> str:
        """The reasons that took most files, each with a file, as part of a sentence."""
        return ", ".join(
            f"{reason} {drops.files:,} (such as {drops.samples[0]})"
            for reason, drops in self.largest_reasons()[:NUM_TOLD]
        )

    def as_json(self) -> dict[str, Any]:
        """What a manifest says: `changed` only where a rule has changed something."""
        return {k: v for k, v in asdict(self).items() if k != "changed" or self.changed.files}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Counts":
        dropped = {reason: Drops(**drops) for reason, drops in value["dropped"].items()}
        changed = Amount(**value.get("changed", {}))
        return cls(Amount(**value["read"]), Amount(**value["kept"]), dropped, changed)
