"""The token of calls to a release: its Secret's, or a service account's own, renewed while it is used."""

import base64
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kubernetes.client.exceptions import ApiException

from synthmix.client.release.access import Access, asking
from synthmix.client.release.discovery import Release
from synthmix.service_kit.errors import NotFound, PermissionDenied, SynthMixError, Unauthenticated, Unavailable
from synthmix.service_kit.kubernetes_api import Right, as_json, said_by

KEY = "token"
LIFETIME_S = 3600
# A token is renewed once less of it is left than this share, and asked for again this long after a failure.
RENEW_AT_SHARE = 0.25
ASK_AGAIN_S = 10.0


@dataclass(frozen=True)
class _Held:
    """A token, and until when it is good, as seconds of the clock; the static one is for ever."""

    token: str = field(repr=False)
    renew_at_s: float = float("inf")
    ends_at_s: float = float("inf")


class ReleaseToken:
    """Gives the token that is good now; any thread may ask.

    Args:
        clock: Seconds since the epoch: a machine that slept has to notice.
    """

    def __init__(self, access: Access, release: Release, clock: Callable[[], float] = time.time):
        self._access, self._release, self._clock = access, release, clock
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self.origin = ""
        """Where it is from, in words."""

    def __call__(self) -> str:
        """Raises Unauthenticated, with what each way would take, or Unavailable."""
        with self._lock:
            if self._held is None:
                self._held = self._first()
            elif self._clock() >= self._held.renew_at_s:
                self._held = self._renewed(self._held)
            return self._held.token

    def _first(self) -> _Held:
        static, why_no_static = self._static()
        if static:
            self.origin = f"Secret {self._release.token_secret}"
            return _Held(static)
        release = self._release
        if not release.audience:
            why_no_own = "the release takes no tokens of the cluster (the chart's value access.kubernetes.enabled)"
        elif not release.client_account:
            why_no_own = "the release has no service account for callers (the chart's value access.clients.enabled)"
        else:
            try:
                held = self._requested()
                self.origin = f"service account {release.client_account}"
                return held
            except PermissionDenied:
                why_no_own = (
                    f"you may not create serviceaccounts/token of {release.client_account} in {release.namespace}"
                )
            except NotFound as error:
                why_no_own = error.message
        raise Unauthenticated(
            f"there is no token for release {release}. Its Secret gives none: {why_no_static}. A service account gives "
            f"none: {why_no_own}; have an administrator allow either, or give --token or SYNTHMIX_TOKEN",
            reason="TOKEN_MISSING",
        )

    def _static(self) -> tuple[str, str]:
        """The Secret's token, or "" and why there is none."""
        name, namespace = self._release.token_secret, self._release.namespace
        right = Right("get", f"secrets/{name}", "", namespace)
        try:
            with asking(self._access, right):
                data = as_json(self._access.core.read_namespaced_secret, name, namespace).get("data") or {}
            token = base64.b64decode(data.get(KEY, ""), validate=True).decode("ascii").strip()
        except PermissionDenied:
            return "", f"you may not {right}"
        except ApiException as error:
            return "", f"Secret {name} in namespace {namespace} cannot be read ({said_by(error)})"
        except ValueError:
            return "", f"key {KEY} of Secret {name} in namespace {namespace} is not text in base64"
        return token, f"Secret {name} in namespace {namespace} has no key {KEY}, or an empty one"

    def _requested(self) -> _Held:
        """A new token of the callers' service account. Raises as `asking` does, and NotFound if it is gone."""
        release = self._release
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [release.audience], "expirationSeconds": LIFETIME_S},
        }
        asked_at_s = self._clock()
        right = Right("create", "serviceaccounts/token", "", release.namespace)
        try:
            with asking(self._access, right):
                answer = as_json(
                    self._access.core.create_namespaced_service_account_token,
                    release.client_account,
                    release.namespace,
                    body,
                )
        except ApiException as error:
            raise NotFound(
                f"service account {release.client_account} in namespace {release.namespace} gives no token "
                f"({said_by(error)}); check that it is there, or give --token",
                reason="TOKEN_REQUEST_REFUSED",
            ) from None
        # The API server may shorten it. Seconds, and not its time of day: clocks differ.
        lifetime_s = float(answer["spec"].get("expirationSeconds", LIFETIME_S))
        return _Held(
            str(answer["status"]["token"]),
            renew_at_s=asked_at_s + lifetime_s * (1 - RENEW_AT_SHARE),
            ends_at_s=asked_at_s + lifetime_s,
        )

    def _renewed(self, held: _Held) -> _Held:
        try:
            return self._requested()
        except SynthMixError as error:
            if self._clock() < held.ends_at_s:  # it is still good: the API server may be back before it ends
                return _Held(held.token, self._clock() + ASK_AGAIN_S, held.ends_at_s)
            if isinstance(error, Unavailable):
                raise
            raise Unauthenticated(
                f"the token for release {self._release} has ended, and there is no new one; run the command again: "
                f"{error.message}",
                reason="TOKEN_ENDED",
            ) from None
