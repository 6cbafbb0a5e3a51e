"""The static bearer tokens of a stack, and what one service shows to another."""

import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from synthmix.service_kit.errors import FailedPrecondition, Unavailable
from synthmix.service_kit.requesters import LOCAL

TOKEN_VARIABLE = "SYNTHMIX_TOKEN"
FOLDER_VARIABLE = "SYNTHMIX_TOKEN_FOLDER"
SERVICE_TOKEN_VARIABLE = "SYNTHMIX_SERVICE_TOKEN_FILE"
CURRENT, PREVIOUS = "token", "previous-token"


class StaticTokens:
    """The tokens that any caller may show, as they are now.

    Attributes:
        owner: Whose the things are that are made with them.
    """

    def __init__(self, read: Callable[[], Sequence[str]], owner: str = LOCAL):
        self._read = read
        self.owner = owner

    @classmethod
    def of(cls, token: str, owner: str = LOCAL) -> "StaticTokens":
        return cls(lambda: (token,), owner)

    @property
    def current(self) -> str:
        """The one that is to be shown."""
        return self._read()[0]

    def accept(self, token: str) -> bool:
        """Whether it is one of them: each is compared, in a time that tells nothing of where they differ."""
        same = [hmac.compare_digest(token.encode(), known.encode()) for known in self._read()]
        return any(same)


class MountedTokens:
    """The files of a Secret that is mounted as a folder: `token`, and `previous-token` while callers still show that.

    Kubernetes changes them in a running pod within some two minutes, all at once.
    """

    def __init__(self, folder: Path):
        self._paths = (folder / CURRENT, folder / PREVIOUS)
        self._seen: object = None
        self._tokens: tuple[str, ...] = ()

    def __call__(self) -> tuple[str, ...]:
        """The current one, and the previous one if there is any. Raises Unavailable if there is no current one."""
        seen = [_state_of(path) for path in self._paths]
        if seen != self._seen:
            current, previous = (_text_of(path) for path in self._paths)
            if not current:
                raise Unavailable(
                    f"{self._paths[0]} holds no token; give the Secret the key {CURRENT} again",
                    reason="TOKEN_UNREADABLE",
                )
            self._tokens = (current, previous) if previous else (current,)
            self._seen = seen
        return self._tokens


def static_tokens(environment: Mapping[str, str] = os.environ) -> StaticTokens:
    """The tokens of SYNTHMIX_TOKEN_FOLDER, or that of SYNTHMIX_TOKEN. Raises FailedPrecondition if there is none."""
    owner = environment.get("SYNTHMIX_TOKEN_OWNER") or LOCAL
    if environment.get(FOLDER_VARIABLE):
        read = MountedTokens(Path(environment[FOLDER_VARIABLE]))
        try:
            read()
        except Unavailable:
            raise FailedPrecondition(
                f"environment variable {FOLDER_VARIABLE} is {environment[FOLDER_VARIABLE]!r}, which has no file "
                f"{CURRENT} with a token; mount the Secret there",
                reason="SETTING_INVALID",
            ) from None
        return StaticTokens(read, owner)
    if environment.get(TOKEN_VARIABLE):
        return StaticTokens.of(environment[TOKEN_VARIABLE], owner)
    raise FailedPrecondition(
        f"environment variable {TOKEN_VARIABLE} is not set, and neither is {FOLDER_VARIABLE}; set one, or start "
        "everything with `synthmix up`",
        reason="SETTING_MISSING",
    )


def token_for_services(environment: Mapping[str, str] = os.environ) -> Callable[[], str]:
    """Gives what this service shows to another one now: its service account's token, or else the static one.

    Kubernetes renews that token in its file before it expires, so it is read for each call. What is returned raises
    Unavailable if it cannot be.
    """
    if not environment.get(SERVICE_TOKEN_VARIABLE):
        tokens = static_tokens(environment)
        return lambda: tokens.current
    path = Path(environment[SERVICE_TOKEN_VARIABLE])

    def read() -> str:
        token = _text_of(path)
        if not token:
            raise Unavailable(
                f"{path}, which {SERVICE_TOKEN_VARIABLE} names, holds no token; the pod needs it as a projected volume",
                reason="TOKEN_UNREADABLE",
            )
        return token

    return read


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _state_of(path: Path) -> object:
    """What changes with the file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
