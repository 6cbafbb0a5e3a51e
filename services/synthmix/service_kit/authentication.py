"""Who calls, and whether they may: a static token, or a token of the Kubernetes cluster.

A static token opens every method, also on what is another's. A token of the cluster (`kubectl create token ACCOUNT
--audience AUDIENCE`) is checked by the API server, once for whom it belongs to (TokenReview) and once for whether they
may do what they ask (SubjectAccessReview), so that RBAC rules on the group synthmix.io decide who may. The services
show one another tokens of an audience of their own, which no SubjectAccessReview follows: they say for whom they ask.
A stream is checked when it begins.
"""

import asyncio
import base64
import hashlib
import json
import re
import shlex
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from synthmix.service_kit.errors import Internal, PermissionDenied, ResourceExhausted, Unauthenticated
from synthmix.service_kit.kubernetes_api import CALL_TIMEOUT_SECONDS, Right, requiring
from synthmix.service_kit.owners import Administration, Fixed
from synthmix.service_kit.tokens import StaticTokens

# A right that was taken away, or a token that was revoked, may work for this long.
POSITIVE_SECONDS = 60.0
# A caller who was refused and has been given the right since is not refused for longer than this.
NEGATIVE_SECONDS = 5.0
# Answers kept of each kind. Refused tokens are kept apart, so that inventing many of them drops no good one.
MOST_ANSWERS = 4096
REVIEWS_AT_ONCE = 8
# Those that wait are asked again by their callers, if these still want to know.
MOST_REVIEWS = 256
# The clocks of an API server and of a service differ: what has just expired is the API server's to judge.
CLOCK_DIFFERENCE_SECONDS = 10.0
LONGEST_USER_BYTES = 512

GROUP = "synthmix.io"
BEARER = "Bearer "

# The resource that an RBAC rule names for each gRPC service.
RESOURCES = {
    "google.longrunning.Operations": "operations",
    "synthmix.adapters.v1.AdapterService": "adapters",
    "synthmix.artifacts.v1.ArtifactService": "artifacts",
    "synthmix.base_models.v1.BaseModelService": "models",
    "synthmix.clusters.v1.ClusterService": "clusters",
    "synthmix.datasets.v1.DatasetService": "datasets",
    "synthmix.evaluations.v1.EvaluationService": "evaluations",
    "synthmix.image_sets.v1.ImageSetService": "imagesets",
    "synthmix.studies.v1.StudyService": "studies",
}
# The verb that an RBAC rule names for the first word of a method.
VERBS = {
    "Create": "create",
    "Upload": "create",
    "Get": "get",
    "Download": "get",
    "Wait": "get",
    "List": "list",
    "Watch": "watch",
    "Cancel": "update",
    "Scale": "update",
    "Update": "update",
    "Delete": "delete",
    "Sweep": "delete",
}
READING_VERBS = ("get", "list", "watch")
# What it takes to change what is another's, beside the verb of the method.
ADMINISTERING_VERB = "administer"

K = TypeVar("K")
V = TypeVar("V")


def right_for(method: str, namespace: str) -> Right | None:
    """The right that a gRPC method (/package.Service/Method) needs; None for one that the tables do not know."""
    _, service, name = method.split("/")
    first_word = re.match(r"[A-Z][a-z]*", name)
    resource = RESOURCES.get(service)
    verb = VERBS.get(first_word.group() if first_word else "")
    return Right(verb, resource, GROUP, namespace) if resource and verb else None


def is_read(method: str) -> bool:
    """Whether a method changes nothing; one that the tables do not know may."""
    right = right_for(method, "")
    return right is not None and right.verb in READING_VERBS


@dataclass(frozen=True)
class Identity:
    """Who calls.

    Attributes:
        names_others: Whether it is one of our services, which says for whom it asks, and does what those may.
        administration: Whether they may change what is another's: whoever can read a static token may.
    """

    name: str
    names_others: bool
    administration: Administration


class ExpiringAnswers(Generic[K, V]):
    """At most MOST_ANSWERS values, each for its time; the oldest makes room."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._answers: dict[K, tuple[float, V]] = {}

    def get(self, key: K) -> V | None:
        expiry_s, value = self._answers.get(key, (0.0, None))
        return value if self._clock() < expiry_s else None

    def put(self, key: K, value: V, seconds: float) -> None:
        self._answers.pop(key, None)
        while len(self._answers) >= MOST_ANSWERS:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = (self._clock() + seconds, value)


class KubernetesReviews:
    """Asks the API server about tokens and rights, and remembers its answers for a while. For one event loop.

    Args:
        api: A kubernetes.client.ApiClient.
        audience: What tokens must be meant for: a token for the API server itself is none of ours.
        namespace: Where callers need their rights.
        role_prefix: Of the ClusterRoles that have them.
        clock: In seconds.
        services_audience: What tokens of our own services are meant for.
        service_accounts: Who these are, as users of the cluster.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self,
        api: Any,
        audience: str,
        namespace: str,
        role_prefix: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        services_audience: str = "",
        service_accounts: Collection[str] = (),
        wall_clock: Callable[[], float] = time.time,
    ):
        self._api = api
        self._audience = audience
        self._services_audience = services_audience
        self._service_accounts = frozenset(service_accounts)
        self._wall_clock = wall_clock
        self._namespace = namespace
        self._role_prefix = role_prefix
        # Of each token a kubernetes.client.V1UserInfo: whom it belongs to, as the API server says it.
        self._callers = ExpiringAnswers[bytes, Any](clock)
        self._refusals = ExpiringAnswers[bytes, Unauthenticated](clock)
        self._rights = ExpiringAnswers[tuple[bytes, Right], bool](clock)
        # Of its own: calls that wait for a slow API server must not keep others from object storage.
        self._threads = ThreadPoolExecutor(REVIEWS_AT_ONCE, thread_name_prefix="kubernetes-review")
        self._lock = threading.Lock()
        self._pending = 0

    async def check(self, token: str, method: str) -> Identity:
        """Lets the call in, and returns whom the token belongs to.

        Raises:
            Unauthenticated: The API server does not know the token, or it is for another audience, or has expired.
            PermissionDenied: Its owner may not call this method.
            ResourceExhausted: Too many reviews wait.
            Unavailable: The API server is out of reach.
            FailedPrecondition: This service may not ask.
        """
        digest = hashlib.sha256(token.encode()).digest()
        audience = self._audience_of(token)
        caller = await self._caller(digest, token, audience)
        user = caller.username or ""
        if len(user.encode()) > LONGEST_USER_BYTES:
            raise Unauthenticated(
                f"the user's name has {len(user.encode()):,} bytes, more than {LONGEST_USER_BYTES}; use a token of a "
                "user with a shorter name",
                reason="USER_NAME_TOO_LONG",
            )
        if audience == self._services_audience:
            if user not in self._service_accounts:
                raise self._wrong_audience()
            return Identity(user, names_others=True, administration=Fixed(False))
        right = right_for(method, self._namespace)
        if right is None:
            raise Internal(f"{method} has no right that RBAC could give; report it", reason="METHOD_WITHOUT_RIGHT")
        if not await self.may(digest, caller, right):
            raise self._denied(user, right)
        administering = Right(ADMINISTERING_VERB, right.resource, right.group, right.namespace)
        return Identity(user, names_others=False, administration=_Reviewed(self, digest, caller, administering))

    def _audience_of(self, token: str) -> str:
        """Which of our audiences it is to be reviewed for, by what it says itself.

        Raises Unauthenticated for what the API server need not be asked about.
        """
        claims = _claims(token)
        if claims is None:
            raise self._wrong_token()
        expiry_s, said = claims.get("exp"), claims.get("aud")
        if isinstance(expiry_s, int | float) and expiry_s < self._wall_clock() - CLOCK_DIFFERENCE_SECONDS:
            raise Unauthenticated(
                f"the token has expired; make a new one, such as by `kubectl create token ACCOUNT --audience "
                f"{self._audience}`",
                reason="TOKEN_EXPIRED",
            )
        audiences = said if isinstance(said, list) else [said]
        if self._services_audience in audiences and str(claims.get("sub")) in self._service_accounts:
            return self._services_audience
        if self._audience in audiences:
            return self._audience
        raise self._wrong_audience()

    async def _caller(self, digest: bytes, token: str, audience: str) -> Any:
        caller, refusal = self._callers.get(digest), self._refusals.get(digest)
        if refusal is not None:
            raise copy(refusal)
        if caller is None:
            try:
                caller = await self._run(self._review_token, token, audience)
            except Unauthenticated as error:
                self._refusals.put(digest, error, NEGATIVE_SECONDS)
                raise
            self._callers.put(digest, caller, POSITIVE_SECONDS)
        return caller

    async def may(self, digest: bytes, caller: Any, right: Right) -> bool:
        """Whether RBAC gives a caller the right, whose token has this digest."""
        allowed = self._rights.get((digest, right))
        if allowed is None:
            allowed = await self._run(self._review_access, caller, right)
            self._rights.put((digest, right), allowed, POSITIVE_SECONDS if allowed else NEGATIVE_SECONDS)
        return allowed

    def _denied(self, user: str, right: Right) -> PermissionDenied:
        role = "viewer" if right.verb in READING_VERBS else "editor"
        return PermissionDenied(
            f"{user} may not {right}; an administrator can allow it by {self._binding(user, role)}",
            reason="RIGHT_MISSING",
            metadata={"user": user} | asdict(right),
        )

    def remedy(self, user: str) -> str:
        """How an administrator allows the user to change what is another's, as the end of a sentence."""
        return self._binding(user, "admin")

    def _binding(self, user: str, role: str) -> str:
        return (
            f"`kubectl create rolebinding NAME --namespace {self._namespace} --clusterrole {self._role_prefix}-{role} "
            f"--user {shlex.quote(user)}`"
        )

    async def _run(self, function: Callable[..., V], *arguments: Any) -> V:
        with self._lock:
            if self._pending >= MOST_REVIEWS:
                raise ResourceExhausted(
                    f"{self._pending} callers wait for the Kubernetes API server to say who they are, and more are "
                    "refused; try again in a moment",
                    reason="TOO_MANY_REVIEWS",
                )
            self._pending += 1
        future = self._threads.submit(function, *arguments)
        future.add_done_callback(lambda _: self._ended())  # not when a caller gives up: its review goes on
        return await asyncio.wrap_future(future)

    def _ended(self) -> None:
        with self._lock:
            self._pending -= 1

    def _wrong_audience(self) -> Unauthenticated:
        return Unauthenticated(
            f"the token is not for the audience {self._audience}; make one that is, such as by "
            f"`kubectl create token ACCOUNT --audience {self._audience}`",
            reason="TOKEN_AUDIENCE",
        )

    def _wrong_token(self) -> Unauthenticated:
        return Unauthenticated(
            "the token is neither this server's nor a valid one of its Kubernetes cluster; check --token or "
            f"SYNTHMIX_TOKEN, or make one by `kubectl create token ACCOUNT --audience {self._audience}`",
            reason="TOKEN_WRONG",
        )

    def _review_token(self, token: str, audience: str) -> Any:
        """Whom the token belongs to. Raises Unauthenticated."""
        from kubernetes import client

        review = client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token, audiences=[audience]))
        with requiring(Right("create", "tokenreviews", "authentication.k8s.io")):
            api = client.AuthenticationV1Api(self._api)
            status = api.create_token_review(review, _request_timeout=CALL_TIMEOUT_SECONDS).status
        # An authenticator that knows nothing of audiences leaves them out: its tokens are for the API server.
        meant_for_us = audience in (status.audiences or ())
        if status.authenticated and meant_for_us:
            return status.user
        # The API server has no code for a token of another audience, only these words.
        if status.authenticated or "audience" in (status.error or ""):
            raise self._wrong_audience()
        raise self._wrong_token()

    def _review_access(self, caller: Any, right: Right) -> bool:
        from kubernetes import client

        review = client.V1SubjectAccessReview(
            spec=client.V1SubjectAccessReviewSpec(
                user=caller.username,
                uid=caller.uid,
                groups=caller.groups,
                extra=caller.extra,
                resource_attributes=client.V1ResourceAttributes(
                    group=right.group, resource=right.resource, verb=right.verb, namespace=right.namespace
                ),
            )
        )
        with requiring(Right("create", "subjectaccessreviews", "authorization.k8s.io")):
            api = client.AuthorizationV1Api(self._api)
            answer = api.create_subject_access_review(review, _request_timeout=CALL_TIMEOUT_SECONDS)
        return bool(answer.status.allowed)


class _Reviewed:
    """Asks the API server whether a caller may change what is another's, when it matters."""

    def __init__(self, reviews: KubernetesReviews, digest: bytes, caller: Any, right: Right):
        self._reviews, self._digest, self._caller, self._right = reviews, digest, caller, right
        self.remedy = reviews.remedy(caller.username or "")

    async def allows(self) -> bool:
        return await self._reviews.may(self._digest, self._caller, self._right)


def _claims(token: str) -> dict[str, Any] | None:
    """What a JSON Web Token says of itself, which nobody has verified; None if it is none."""
    parts = token.split(".")
    try:
        if len(parts) != 3:
            return None
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


async def authenticate(shown: str, method: str, tokens: StaticTokens, reviews: KubernetesReviews | None) -> Identity:
    """Lets a call in by the `authorization` that it shows, and returns whose it is.

    Args:
        shown: "" if the call shows none.
        reviews: For tokens of the cluster; None if there are none.

    Raises:
        Unauthenticated: No token, or a wrong one.
        SynthMixError: As KubernetesReviews.check does.
    """
    if not shown:
        raise Unauthenticated(
            "the request carries no token; send metadata `authorization: Bearer TOKEN` "
            "(synthmix --token, or SYNTHMIX_TOKEN)",
            reason="TOKEN_MISSING",
        )
    token = shown.removeprefix(BEARER)
    if shown.startswith(BEARER) and tokens.accept(token):
        return Identity(tokens.owner, names_others=False, administration=Fixed(True))
    if reviews is None or not shown.startswith(BEARER):
        raise Unauthenticated("the token is not this server's; check --token or SYNTHMIX_TOKEN", reason="TOKEN_WRONG")
    return await reviews.check(token, method)
