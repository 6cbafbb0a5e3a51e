"""Whose an artifact is: those who asked for it.

    claims/{collection}/{id}/{owner}   who asked, and when last

An artifact's id is its content, so that several may have asked for the same one. One object for each of them: none can
overwrite another's, and the keys say all there is to say. Whoever asks claims first and then looks whether the artifact
is there; whoever deletes looks for claims once more when it is gone (synthmix.service_kit.deletion). Whoever starts an
operation then claims once more: a sweep withdraws an old claim of what is not there and nobody makes, and looks once
more when that is done (synthmix.service_kit.sweep).

What has no claim, such as what an earlier version made, belongs to nobody in particular: whoever may change things may
change it. Splits, trials, checks of autoencoders, reconstructions and features have no owner: they go with what they
were made from.
"""

import asyncio
import base64
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from synthmix.service_kit.errors import InvalidArgument, PermissionDenied, listing, printable
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import now
from synthmix.service_kit.requesters import current_requester
from synthmix.service_kit.resource_names import DATASETS, MODELS, STUDIES, ArtifactName

CLAIMS = "claims/"
NOT_OWNER = "NOT_OWNER"
AMBIGUOUS = {
    DATASETS: "DATASET_NAME_AMBIGUOUS",
    MODELS: "MODEL_NAME_AMBIGUOUS",
    STUDIES: "STUDY_NAME_AMBIGUOUS",
}
# Servers that keep objects as files take 255 bytes between two slashes.
LONGEST_KEY_PART = 200
# One that goes on is nobody's name: no object lies where others have a folder.
CONTINUED = "~/"

Result = TypeVar("Result")


class Administration(Protocol):
    """What decides whether a caller may change what is another's."""

    @property
    def remedy(self) -> str:
        """How an administrator allows it, as the end of a sentence, or ""."""
        ...

    async def allows(self) -> bool:
        """Whether the caller of the method that is being answered may."""
        ...


@dataclass(frozen=True)
class Fixed:
    """The same for whatever is another's."""

    allowed: bool
    remedy: str = ""

    async def allows(self) -> bool:
        return self.allowed


_administration: ContextVar[Administration] = ContextVar("administration")


def set_administration(administration: Administration) -> None:
    """What decides for the rest of this task."""
    _administration.set(administration)


@dataclass(frozen=True)
class Caller:
    """Who wants to change something.

    Attributes:
        administers: Whether they may change what is another's.
        remedy: Administration's.
    """

    name: str
    administers: bool = False
    remedy: str = ""

    def check(self, what: object, owners: Collection[str]) -> None:
        """Raises PermissionDenied, with the reason NOT_OWNER, if it is another's and this caller may not change it."""
        if self.administers or not owners or self.name in owners:
            return
        raise self.denied(f"{what} belongs to {said_of(owners)}, and you are {printable(self.name)}")

    def denied(self, why: str, items: Iterable[str] = ()) -> PermissionDenied:
        remedy = f", or have an administrator allow it to you by {self.remedy}" if self.remedy else ""
        return PermissionDenied(
            f"{why}; ask them to change it{remedy}{listing(list(items))}",
            reason="NOT_OWNER",
            metadata={"caller": self.name},
        )

    def acts_for(self, owners: Collection[str]) -> frozenset[str]:
        """In whose names this caller, whom `check` lets pass, changes something of these owners: their own if it is."""
        return frozenset([self.name] if self.name in owners else owners)


EVERYONE = Caller("", administers=True)
"""Changes something in the names of all who asked for it. Whoever may do that was checked before."""


async def as_owner(change: Callable[[Caller], Result]) -> Result:
    """Makes a change in the name of the caller of this method: as an owner, or else as an administrator.

    Args:
        change: Blocking; asks `Caller.check` before it changes anything.
    """
    administration = _administration.get(Fixed(False))
    caller = Caller(current_requester().owner, remedy=administration.remedy)
    try:
        return await asyncio.to_thread(change, caller)
    except PermissionDenied as error:
        if error.reason != NOT_OWNER or not await administration.allows():
            raise
    return await asyncio.to_thread(change, replace(caller, administers=True))


def claim(store: ObjectStore, artifact: ArtifactName, owner: str) -> None:
    """Records that the owner asked for it; "" claims nothing. It stands even if the work cannot be started."""
    if owner:
        store.put_json(_key(artifact, owner), {"owner": owner, "time": now()})


def withdraw(store: ObjectStore, artifact: ArtifactName, owners: Iterable[str]) -> None:
    """Forgets that these asked for it."""
    for owner in owners:
        store.delete(_key(artifact, owner))


def owners_of(store: ObjectStore, artifact: ArtifactName) -> frozenset[str]:
    """Who asked for it."""
    beginning = f"{CLAIMS}{artifact}/"
    return frozenset(owner_of_key(item.key.removeprefix(beginning)) for item in store.list(beginning))


def all_owners(store: ObjectStore) -> dict[ArtifactName, frozenset[str]]:
    """Who asked for each artifact that anybody asked for."""
    found: dict[ArtifactName, set[str]] = defaultdict(set)
    for item in store.list(CLAIMS):
        artifact, owner = of_claim(item.key)
        found[artifact].add(owner)
    return {artifact: frozenset(owners) for artifact, owners in found.items()}


def of_claim(key: str) -> tuple[ArtifactName, str]:
    """What the claim of this key is of, and whose it is."""
    collection, artifact_id, owner = key.removeprefix(CLAIMS).split("/", 2)
    return ArtifactName(collection, artifact_id), owner_of_key(owner)


def show(message: Any, owners: Iterable[str], caller: str) -> Any:
    """The resource's message, with who asked for it, and whether the caller is among them."""
    message.requested_by[:] = sorted(owners)
    message.requested_by_me = caller in message.requested_by
    return message


def said_of(owners: Iterable[str]) -> str:
    return " and ".join(printable(owner) for owner in sorted(owners))


def meant_by(found: Mapping[str, ArtifactName], owner: str, *, field: str, name: str) -> ArtifactName | None:
    """What a caller means by a name: what is their own of it, else what the only others who have it mean.

    Args:
        found: What each owner of the name means by it.

    Returns:
        None if nobody has it.

    Raises:
        InvalidArgument: Several others have it, and mean different things.
    """
    if owner in found:
        return found[owner]
    meant = set(found.values())
    if len(meant) > 1:
        collection = next(iter(meant)).collection
        raise InvalidArgument(
            f"{field}: {name!r} is the name of {collection} of several owners, and of none of yours; say which one you "
            f"mean by its {collection}/{{digest}}"
            + listing([f"{artifact}, of {said_of([who])}" for who, artifact in found.items()]),
            reason=AMBIGUOUS[collection],
        )
    return next(iter(meant), None)


def key_of_owner(owner: str) -> str:
    """An owner's name as a part of an object's key: whatever it holds, it says nothing to object storage."""
    text = base64.urlsafe_b64encode(owner.encode()).decode().rstrip("=")
    return CONTINUED.join(text[start : start + LONGEST_KEY_PART] for start in range(0, len(text), LONGEST_KEY_PART))


def owner_of_key(text: str) -> str:
    text = text.replace(CONTINUED, "")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


def _key(artifact: ArtifactName, owner: str) -> str:
    return f"{CLAIMS}{artifact}/{key_of_owner(owner)}"
