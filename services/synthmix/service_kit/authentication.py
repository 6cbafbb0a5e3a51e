"""Who calls, and whether they may: the services' own token, or a token of the Kubernetes cluster.

The services' own token opens every method: services show it to one another. A token of the cluster (`kubectl create
token ACCOUNT --audience AUDIENCE`) is checked by the API server, once for whom it belongs to (TokenReview) and once for
whether they may do what they ask (SubjectAccessReview), so that RBAC rules on the group synthmix.io decide who may.
A stream is checked when it begins.
"""

import asyncio
import hashlib
import hmac
import re
import shlex
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import asdict
from typing import Any, Generic, TypeVar

from synthmix.service_kit.errors import Internal, PermissionDenied, Unauthenticated
from synthmix.service_kit.kubernetes_api import CALL_TIMEOUT_SECONDS, Right, requiring

# A right that was taken away, or a token that was revoked, may work for this long.
POSITIVE_SECONDS = 60.0
# A caller who was refused and has been given the right since is not refused for longer than this.
NEGATIVE_SECONDS = 5.0
# Answers kept of each kind. Refused tokens are kept apart, so that inventing many of them drops no good one.
MOST_ANSWERS = 4096
REVIEWS_AT_ONCE = 8

GROUP = "synthmix.io"
BEARER = "Bearer "

# The resource that an RBAC rule names for each gRPC service.
RESOURCES = {
    "google.longrunning.Operations": "operations",
    "synthmix.adapters.v1.AdapterService": "adapters",
    "synthmix.artifacts.v1.ArtifactService": "artifacts",
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

K = TypeVar("K")
V = TypeVar("V")


def right_for(method: str, namespace: str) -> Right | None:
    """The right that a gRPC method (/package.Service/Method) needs; None for one that the tables do not know."""
    _, service, name = method.split("/")
    first_word = re.match(r"[A-Z][a-z]*", name)
    resource = RESOURCES.get(service)
    verb = VERBS.get(first_word.group() if first_word else "")
    return Right(verb, resource, GROUP, namespace) if resource and verb else None


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
    """

    def __init__(
        self,
        api: Any,
        audience: str,
        namespace: str,
        role_prefix: str,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._api = api
        self._audience = audience
        self._namespace = namespace
        self._role_prefix = role_prefix
        # Of each token a kubernetes.client.V1UserInfo: whom it belongs to, as the API server says it.
        self._callers = ExpiringAnswers[bytes, Any](clock)
        self._refusals = ExpiringAnswers[bytes, Unauthenticated](clock)
        self._rights = ExpiringAnswers[tuple[bytes, Right], bool](clock)
        # Of its own: calls that wait for a slow API server must not keep others from object storage.
        self._threads = ThreadPoolExecutor(REVIEWS_AT_ONCE, thread_name_prefix="kubernetes-review")

    async def check(self, token: str, method: str) -> str:
        """Lets the call in, and returns the user whom the token belongs to.

        Raises:
            Unauthenticated: The API server does not know the token, or it is for another audience.
            PermissionDenied: Its owner may not call this method.
            Unavailable: The API server is out of reach.
            FailedPrecondition: This service may not ask.
        """
        digest = hashlib.sha256(token.encode()).digest()
        caller = await self._caller(digest, token)
        right = right_for(method, self._namespace)
        if right is None:
            raise Internal(f"{method} has no right that RBAC could give; report it", reason="METHOD_WITHOUT_RIGHT")
        if not await self._may(digest, caller, right):
            raise self._denied(caller.username or "", right)
        return caller.username or ""

    async def _caller(self, digest: bytes, token: str) -> Any:
        caller, refusal = self._callers.get(digest), self._refusals.get(digest)
        if refusal is not None:
            raise copy(refusal)
        if caller is None:
            try:
                caller = await self._run(self._review_token, token)
            except Unauthenticated as error:
                self._refusals.put(digest, error, NEGATIVE_SECONDS)
                raise
            self._callers.put(digest, caller, POSITIVE_SECONDS)
        return caller

    async def _may(self, digest: bytes, caller: Any, right: Right) -> bool:
        allowed = self._rights.get((digest, right))
        if allowed is None:
            allowed = await self._run(self._review_access, caller, right)
            self._rights.put((digest, right), allowed, POSITIVE_SECONDS if allowed else NEGATIVE_SECONDS)
        return allowed

    def _denied(self, user: str, right: Right) -> PermissionDenied:
        role = f"{self._role_prefix}-{'viewer' if right.verb in READING_VERBS else 'editor'}"
        return PermissionDenied(
            f"{user} may not {right}; an administrator can allow it by `kubectl create rolebinding NAME "
            f"--namespace {right.namespace} --clusterrole {role} --user {shlex.quote(user)}`",
            reason="RIGHT_MISSING",
            metadata={"user": user} | asdict(right),
        )

    async def _run(self, function: Callable[..., V], *arguments: Any) -> V:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _review_token(self, token: str) -> Any:
        """Whom the token belongs to. Raises Unauthenticated."""
        from kubernetes import client

        review = client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token, audiences=[self._audience]))
        with requiring(Right("create", "tokenreviews", "authentication.k8s.io")):
            api = client.AuthenticationV1Api(self._api)
            status = api.create_token_review(review, _request_timeout=CALL_TIMEOUT_SECONDS).status
        # An authenticator that knows nothing of audiences leaves them out: its tokens are for the API server.
        meant_for_us = self._audience in (status.audiences or ())
        if status.authenticated and meant_for_us:
            return status.user
        # The API server has no code for a token of another audience, only these words.
        if status.authenticated or "audience" in (status.error or ""):
            raise Unauthenticated(
                f"the token is good, but not for the audience {self._audience}; make one that is, such as by "
                f"`kubectl create token ACCOUNT --audience {self._audience}`",
                reason="TOKEN_AUDIENCE",
            )
        raise Unauthenticated(
            "the token is neither this server's nor a valid one of its Kubernetes cluster; check --token or "
            f"SYNTHMIX_TOKEN, or make one by `kubectl create token ACCOUNT --audience {self._audience}`",
            reason="TOKEN_WRONG",
        )

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


async def authenticate(shown: str, method: str, token: str, reviews: KubernetesReviews | None) -> str | None:
    """Lets a call in by the `authorization` that it shows, and returns whose it is: None for the services' own token.

    Args:
        shown: "" if the call shows none.
        token: The services' own.
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
    if hmac.compare_digest(shown.encode(), f"{BEARER}{token}".encode()):
        return None
    if reviews is None or not shown.startswith(BEARER):
        raise Unauthenticated("the token is not this server's; check --token or SYNTHMIX_TOKEN", reason="TOKEN_WRONG")
    return await reviews.check(shown.removeprefix(BEARER), method)
