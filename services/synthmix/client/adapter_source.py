"""What an adapter is read from, as errors name it."""

from dataclasses import dataclass
from pathlib import Path

from synthmix.service_kit.errors import InvalidArgument, invalid_field

SHOWN_KEYS = 4


@dataclass(frozen=True)
class Source:
    """What is read: the file, and how an error names it."""

    path: Path
    field: str
    shown: str

    def fault(self, problem: str, remedy: str, reason: str = "ADAPTER_UNREADABLE") -> InvalidArgument:
        return invalid_field(self.field, self.shown, problem, remedy, reason=reason)
