"""On whose behalf a request is made: what operations are divided fairly by, and what their records say."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

from synthmix.service_kit.error_limits import bounded_text

LOCAL = "local"
OWNER_KEY = "x-synthmix-owner"
STUDY_KEY = "x-synthmix-study"
LONGEST_NAME_BYTES = 256


@dataclass(frozen=True)
class Requester:
    """Who asked.

    Attributes:
        owner: The caller, such as a user of the Kubernetes cluster; `local` where there is nobody to tell apart.
        study: The study whose step it is, or "".
    """

    owner: str = LOCAL
    study: str = ""

    @property
    def path(self) -> tuple[str, str]:
        """By what it takes its turn."""
        return self.owner, self.study

    def metadata(self) -> list[tuple[str, str]]:
        """What a service that asks another one for this requester sends along."""
        named = [(OWNER_KEY, self.owner), (STUDY_KEY, self.study)]
        return [(key, value) for key, value in named if value and value.isascii() and value.isprintable()]

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Requester":
        """Whatever a record says: one that says nothing was asked for by `local`."""
        if not isinstance(value, Mapping):
            return cls()
        return cls(str(value.get("owner") or LOCAL), str(value.get("study") or ""))


_current: ContextVar[Requester] = ContextVar("requester")


def current_requester() -> Requester:
    """Of the call that is being answered."""
    return _current.get(Requester())


def set_requester(requester: Requester) -> None:
    """Whom the rest of this task or thread works for."""
    _current.set(requester)


def requester_of(metadata: Iterable[tuple[str, Any]] | None, user: str | None) -> Requester:
    """Whom a call is made for.

    Args:
        metadata: The call's.
        user: Whom the caller's token belongs to, or None if it is the services' own: a service says for whom it asks,
            and nobody else may.
    """
    said = {key: bounded_text(value, LONGEST_NAME_BYTES) for key, value in metadata or () if isinstance(value, str)}
    owner = user if user is not None else said.get(OWNER_KEY, "")
    return Requester(owner or LOCAL, said.get(STUDY_KEY, ""))
