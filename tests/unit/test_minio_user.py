"""A MinIO that has just started is asked again for its user; one that refuses is not."""

from typing import Any

import pytest
from minio.error import MinioAdminException

from synthmix.service_kit import minio_user
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.minio_user import make_user

ROOT = ObjectStoreSettings("http://127.0.0.1:1", "root", "secret")
USER = ObjectStoreSettings("http://127.0.0.1:1", "user", "secret")
STARTING = '{"Code":"XMinioServerNotInitialized","Message":"Server not initialized yet, please try again."}'


class Admin:
    """Answers each call for a policy with the next of `answers`."""

    def __init__(self, answers: list[str]):
        self.answers = answers
        self.calls: list[str] = []

    def policy_add(self, name: str, policy: Any) -> None:
        self.calls.append("policy")
        if self.answers:
            raise MinioAdminException("503", self.answers.pop(0))

    def user_add(self, access_key: str, secret_key: str) -> None:
        self.calls.append("user")

    def policy_set(self, name: str, user: str) -> None:
        self.calls.append("set")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minio_user, "PAUSE_SECONDS", 0.0)


def test_a_server_that_starts_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = Admin([STARTING, STARTING])
    monkeypatch.setattr(minio_user, "MinioAdmin", lambda **_: admin)
    make_user(ROOT, USER)
    assert admin.calls == ["policy", "policy", "policy", "user", "set"]


def test_a_refusal_and_a_start_without_end_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = Admin(['{"Code":"AccessDenied"}'])
    monkeypatch.setattr(minio_user, "MinioAdmin", lambda **_: admin)
    with pytest.raises(FailedPrecondition, match="does not make the user"):
        make_user(ROOT, USER)
    assert admin.calls == ["policy"]
    monkeypatch.setattr(minio_user, "STARTING_SECONDS", -1.0)
    admin.answers = [STARTING]
    with pytest.raises(FailedPrecondition, match="Server not initialized yet"):
        make_user(ROOT, USER)
