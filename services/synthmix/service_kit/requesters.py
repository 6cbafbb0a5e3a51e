"""On whose behalf a request is made: what operations are divided fairly by, and what their records say."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

from synthmix.service_kit.error_limits import bounded_text

LOCAL = "local"
"""The owner of everything where there is nobody to tell apart."""
OWNER_KEY = "x-synthmix-owner-bin"
STUDY_KEY = "x-synthmix-study"
LONGEST_STUDY_BYTES = 256


@dataclass(frozen=True)
class Requester:
    """Who asked.

    Attributes:
        owner: The caller, such as a user of the Kubernetes cluster; `local` where there is nobody to tell apart; "" if
            it is nobody in particular.
        study: The study whose step it is, or "".
    """

    owner: str = LOCAL
    study: str = ""

    @property
    def path(self) -> tuple[str, str]:
        """By what it takes its turn."""
        return self.owner, self.study

    def metadata(self) -> list[tuple[str, Any]]:
        """What a service that asks another one for this requester sends along."""
        # Whole and in any alphabet: what is made belongs to the owner.
        owner: list[tuple[str, Any]] = [(OWNER_KEY, self.owner.encode())] if self.owner else []
        is_sendable = self.study.isascii() and self.study.isprintable()
        return [*owner, (STUDY_KEY, self.study)] if self.study and is_sendable else owner

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Requester":
        """Whatever a record says: one that says nothing was asked for by nobody in particular."""
        if not isinstance(value, Mapping):
            return cls("")
        return cls(str(value.get("owner") or ""), str(value.get("study") or ""))


_current: ContextVar[Requester] = ContextVar("requester")


def current_requester() -> Requester:
    """Of the call that is being answered."""
    return _current.get(Requester())


def set_requester(requester: Requester) -> None:
    """Whom the rest of this task or thread works for."""
    _current.set(requester)


def requester_of(metadata: Iterable[tuple[str, Any]] | None, caller: str, *, names_others: bool) -> Requester:
    """Whom a call is made for.

    Args:
        metadata: The call's.
        caller: Whom the caller's token belongs to.
        names_others: Whether the caller is one of our services, which says for whom it asks; nobody else may.
    """
    said = dict(metadata or ())
    owner, study = said.get(OWNER_KEY), said.get(STUDY_KEY)
    if names_others:
        caller = owner.decode(errors="backslashreplace") if isinstance(owner, bytes) else ""
    return Requester(caller, bounded_text(study, LONGEST_STUDY_BYTES) if isinstance(study, str) else "")
