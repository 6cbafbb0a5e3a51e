"""Who may call: static tokens, and tokens of a Kubernetes cluster by TokenReview and SubjectAccessReview."""

import asyncio
import base64
import hmac
import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2

from fake_kubernetes import AUDIENCE, NAMESPACE, Clock, FakeKubernetes, User, web_token, write_kubeconfig
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.api.clusters.v1 import clusters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.studies.v1 import studies_pb2, studies_pb2_grpc
from synthmix.service_kit import authentication, errors, kubernetes_api
from synthmix.service_kit.authentication import Identity, KubernetesReviews, authenticate, right_for
from synthmix.service_kit.environment import KubernetesSettings, ServerSettings
from synthmix.service_kit.interceptors import interceptors
from synthmix.service_kit.kubernetes_api import Right
from synthmix.service_kit.server import kubernetes_reviews
from synthmix.service_kit.tokens import StaticTokens, static_tokens, token_for_services

TOKEN = "correct horse"
ADAS, NEW, FORGED = (web_token(name) for name in ("ada@example.org", "new", "forged"))
SERVICES_AUDIENCE = "lab-synthmix-services"
CONTROL = "system:serviceaccount:lab:synthmix-study-control"
OWN = web_token(CONTROL, SERVICES_AUDIENCE)
NOW_S = 1_700_000_000.0
GET_STUDY = "/synthmix.studies.v1.StudyService/GetStudy"
LIST_STUDIES = "/synthmix.studies.v1.StudyService/ListStudies"
CREATE_STUDY = "/synthmix.studies.v1.StudyService/CreateStudy"
SCALE = "/synthmix.clusters.v1.ClusterService/ScaleWorkerGroup"


def token_saying(**claims: Any) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


@pytest.fixture
def reviews(api: Any, kubernetes: FakeKubernetes, clock: Clock) -> KubernetesReviews:
    kubernetes.users[ADAS] = User("ada@example.org")
    kubernetes.allowed.add(("ada@example.org", "get", "studies"))
    return KubernetesReviews(
        api,
        AUDIENCE,
        NAMESPACE,
        "lab-synthmix",
        clock,
        services_audience=SERVICES_AUDIENCE,
        service_accounts={CONTROL},
        wall_clock=lambda: NOW_S,
    )


def check(reviews: KubernetesReviews | None, method: str = GET_STUDY, token: str = ADAS) -> None:
    asyncio.run(authenticate(f"Bearer {token}", method, StaticTokens.of(TOKEN), reviews))


def refusal(reviews: KubernetesReviews | None, **call: Any) -> errors.SynthMixError:
    with pytest.raises(errors.SynthMixError) as caught:
        check(reviews, **call)
    return caught.value


# Rights


def served_methods() -> Iterator[str]:
    for module in (
        adapters_pb2,
        artifacts_pb2,
        clusters_pb2,
        datasets_pb2,
        evaluations_pb2,
        image_sets_pb2,
        studies_pb2,
        operations_pb2,
    ):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}"


@pytest.mark.parametrize("method", list(served_methods()))
def test_every_method_needs_a_right(method: str) -> None:
    right = right_for(method, NAMESPACE)
    assert right is not None
    assert (right.group, right.namespace) == ("synthmix.io", NAMESPACE)


def test_the_protos_have_no_service_without_a_resource() -> None:
    protos = Path(__file__).resolve().parents[2] / "protos" / "synthmix"
    packages = {
        f"synthmix.{path.parts[-3]}.v1." for path in protos.glob("*/v1/*.proto") if "\nservice " in path.read_text()
    }
    assert packages == {
        name.rpartition(".")[0] + "." for name in authentication.RESOURCES if name.startswith("synthmix")
    }


@pytest.mark.parametrize(
    ("method", "verb", "resource"),
    [
        (CREATE_STUDY, "create", "studies"),
        ("/synthmix.studies.v1.StudyService/WatchStudy", "watch", "studies"),
        ("/synthmix.datasets.v1.DatasetService/ListDatasets", "list", "datasets"),
        ("/synthmix.datasets.v1.DatasetService/CreateSplit", "create", "datasets"),
        ("/synthmix.artifacts.v1.ArtifactService/UploadFile", "create", "artifacts"),
        ("/synthmix.artifacts.v1.ArtifactService/DownloadPayload", "get", "artifacts"),
        ("/synthmix.image_sets.v1.ImageSetService/GetImageSet", "get", "imagesets"),
        ("/google.longrunning.Operations/WaitOperation", "get", "operations"),
        ("/google.longrunning.Operations/CancelOperation", "update", "operations"),
        ("/google.longrunning.Operations/DeleteOperation", "delete", "operations"),
        ("/synthmix.studies.v1.StudyService/DeleteStudy", "delete", "studies"),
        ("/synthmix.image_sets.v1.ImageSetService/DeleteImageSet", "delete", "imagesets"),
        ("/synthmix.base_models.v1.BaseModelService/CreateBaseModel", "create", "models"),
        (SCALE, "update", "clusters"),
        # What takes something away is no viewer's.
        ("/synthmix.artifacts.v1.ArtifactService/Sweep", "delete", "artifacts"),
        ("/synthmix.datasets.v1.DatasetService/DeleteDatasetImages", "delete", "datasets"),
    ],
)
def test_rights_are_named_as_rbac_names_them(method: str, verb: str, resource: str) -> None:
    assert right_for(method, NAMESPACE) == Right(verb, resource, "synthmix.io", NAMESPACE)


@pytest.mark.parametrize("method", ["/synthmix.other.v1.OtherService/GetOther", "/google.longrunning.Operations/Purge"])
def test_a_method_that_no_table_knows_is_open_to_nobody(method: str, reviews: KubernetesReviews) -> None:
    assert right_for(method, NAMESPACE) is None
    assert refusal(reviews, method=method).reason == "METHOD_WITHOUT_RIGHT"


# Tokens


def test_a_static_token_opens_every_method_without_the_api_server(
    reviews: KubernetesReviews, kubernetes: FakeKubernetes
) -> None:
    for method in served_methods():
        check(reviews, method=method, token=TOKEN)
        check(None, method=method, token=TOKEN)
    assert kubernetes.requests == []


def test_a_token_of_the_cluster_whose_owner_may(reviews: KubernetesReviews, kubernetes: FakeKubernetes) -> None:
    check(reviews)
    token_review, access_review = kubernetes.reviews
    assert token_review == {"token": ADAS, "audiences": [AUDIENCE]}
    assert access_review == {
        "user": "ada@example.org",
        "uid": "uid of ada@example.org",
        "groups": ["system:authenticated"],
        "extra": {"authentication.kubernetes.io/pod-name": ["a-pod"]},
        "resourceAttributes": {"group": "synthmix.io", "resource": "studies", "verb": "get", "namespace": NAMESPACE},
    }


def test_no_token_is_sent_to_the_api_server_where_none_is_configured() -> None:
    error = refusal(None)
    assert isinstance(error, errors.Unauthenticated)
    assert error.reason == "TOKEN_WRONG"


def test_no_token_at_all(reviews: KubernetesReviews, kubernetes: FakeKubernetes) -> None:
    with pytest.raises(errors.Unauthenticated) as caught:
        asyncio.run(authenticate("", GET_STUDY, StaticTokens.of(TOKEN), reviews))
    assert caught.value.reason == "TOKEN_MISSING"
    with pytest.raises(errors.Unauthenticated) as caught:
        asyncio.run(authenticate("Basic YWRhOnNlY3JldA==", GET_STUDY, StaticTokens.of(TOKEN), reviews))
    assert caught.value.reason == "TOKEN_WRONG"
    assert kubernetes.requests == [], "what isn't a bearer token isn't shown to the API server"


def test_a_token_that_the_cluster_does_not_know(reviews: KubernetesReviews) -> None:
    error = refusal(reviews, token=FORGED)
    assert isinstance(error, errors.Unauthenticated)
    assert error.reason == "TOKEN_WRONG"
    assert f"kubectl create token ACCOUNT --audience {AUDIENCE}" in error.message
    assert FORGED not in error.message


@pytest.mark.parametrize(
    "audiences", [("https://kubernetes.default.svc",), ()], ids=["of the API server", "of an authenticator without any"]
)
def test_a_token_for_another_audience(
    audiences: tuple[str, ...], reviews: KubernetesReviews, kubernetes: FakeKubernetes
) -> None:
    kubernetes.users[ADAS] = User("ada@example.org", audiences)
    error = refusal(reviews)
    assert isinstance(error, errors.Unauthenticated)
    assert error.reason == "TOKEN_AUDIENCE"
    assert f"--audience {AUDIENCE}" in error.message
    assert kubernetes.count("create", "subjectaccessreviews") == 0


@pytest.mark.parametrize(
    ("method", "right", "role"),
    [
        (LIST_STUDIES, "list studies.synthmix.io", "lab-synthmix-viewer"),
        (CREATE_STUDY, "create studies.synthmix.io", "lab-synthmix-editor"),
        (SCALE, "update clusters.synthmix.io", "lab-synthmix-editor"),
    ],
)
def test_a_caller_without_the_right(method: str, right: str, role: str, reviews: KubernetesReviews) -> None:
    error = refusal(reviews, method=method)
    assert isinstance(error, errors.PermissionDenied)
    assert error.message == (
        f"ada@example.org may not {right} in namespace lab; an administrator can allow it by `kubectl create "
        f"rolebinding NAME --namespace lab --clusterrole {role} --user ada@example.org`"
    )
    assert error.metadata["user"] == "ada@example.org"


def test_a_users_name_is_quoted_in_the_command(reviews: KubernetesReviews, kubernetes: FakeKubernetes) -> None:
    kubernetes.users[ADAS] = User("$(reboot)")
    assert refusal(reviews).message.endswith("--user '$(reboot)'`")


# An API server that fails lets nobody in


@pytest.mark.parametrize("code", [429, 500, 503])
def test_an_api_server_that_fails(code: int, reviews: KubernetesReviews, kubernetes: FakeKubernetes) -> None:
    kubernetes.failing = code
    error = refusal(reviews)
    assert isinstance(error, errors.Unavailable)
    assert error.reason == "KUBERNETES_UNAVAILABLE"
    kubernetes.failing = None
    check(reviews)  # a failure isn't remembered


def test_an_api_server_that_fails_between_the_reviews(reviews: KubernetesReviews, kubernetes: FakeKubernetes) -> None:
    check(reviews)
    kubernetes.failing = 503
    check(reviews)  # remembered
    assert isinstance(refusal(reviews, method=LIST_STUDIES), errors.Unavailable)


def test_an_api_server_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")))
    reviews = KubernetesReviews(kubernetes_api.connect(), AUDIENCE, NAMESPACE, "synthmix")
    error = refusal(reviews)
    assert isinstance(error, errors.Unavailable)
    assert "Connection refused" in error.message


def test_a_service_that_may_not_review(reviews: KubernetesReviews, kubernetes: FakeKubernetes) -> None:
    kubernetes.forbidden.add(("create", "tokenreviews"))
    error = refusal(reviews)
    assert isinstance(error, errors.FailedPrecondition)
    assert error.reason == "RBAC_RIGHT_MISSING"
    assert "create tokenreviews.authentication.k8s.io in the whole cluster" in error.message
    assert "ClusterRole" in error.message


def test_a_service_whose_own_token_is_refused(
    kubernetes: FakeKubernetes, reviews: KubernetesReviews, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fake_kubernetes.SERVICE_TOKEN", "another")
    error = refusal(reviews)
    assert isinstance(error, errors.FailedPrecondition)
    assert error.reason == "KUBERNETES_CREDENTIALS_REFUSED"


# Answers are remembered for a while


def test_good_answers_last_a_minute(reviews: KubernetesReviews, kubernetes: FakeKubernetes, clock: Clock) -> None:
    check(reviews)
    kubernetes.users.clear()
    kubernetes.allowed.clear()
    clock.now_s += 59.9
    check(reviews)
    assert kubernetes.count("create", "tokenreviews") == kubernetes.count("create", "subjectaccessreviews") == 1
    clock.now_s += 0.2
    assert refusal(reviews).reason == "TOKEN_WRONG"


def test_a_right_that_was_taken_away_lasts_a_minute(
    reviews: KubernetesReviews, kubernetes: FakeKubernetes, clock: Clock
) -> None:
    check(reviews)
    kubernetes.allowed.clear()
    clock.now_s += 60.1
    assert isinstance(refusal(reviews), errors.PermissionDenied)


def test_bad_answers_last_five_seconds(reviews: KubernetesReviews, kubernetes: FakeKubernetes, clock: Clock) -> None:
    for _ in range(3):
        assert refusal(reviews, token=NEW).reason == "TOKEN_WRONG"
        assert refusal(reviews, method=LIST_STUDIES).reason == "RIGHT_MISSING"
    assert kubernetes.count("create", "tokenreviews") == 2
    assert kubernetes.count("create", "subjectaccessreviews") == 1
    kubernetes.users[NEW] = User("ada@example.org")
    kubernetes.allowed.add(("ada@example.org", "list", "studies"))
    clock.now_s += 4.9
    assert refusal(reviews, token=NEW).reason == "TOKEN_WRONG"
    clock.now_s += 0.2
    check(reviews, token=NEW)
    check(reviews, method=LIST_STUDIES)


def test_invented_tokens_drop_no_good_answer_and_fill_no_memory(
    reviews: KubernetesReviews, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "MOST_ANSWERS", 3)
    check(reviews)
    for number in range(10):
        refusal(reviews, token=web_token("invented", number=number))
    asked = kubernetes.count("create", "tokenreviews")
    check(reviews)
    assert kubernetes.count("create", "tokenreviews") == asked
    assert len(reviews._refusals._answers) == 3
    refusal(reviews, token=web_token("invented"))  # it made room, so it is asked for again
    assert kubernetes.count("create", "tokenreviews") == asked + 1


# What the API server is not asked


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("no web token", "TOKEN_WRONG"),
        ("a.b.c", "TOKEN_WRONG"),
        (f"e30.{'W1td'}.c2ln", "TOKEN_WRONG"),  # a list
        ("e30.\u00e9.c2ln", "TOKEN_WRONG"),
        (f"e30.{'Ww' * 5000}.c2ln", "TOKEN_WRONG"),
        (web_token("ada@example.org", expiry_s=NOW_S - 11), "TOKEN_EXPIRED"),
        (web_token("ada@example.org", "https://kubernetes.default.svc"), "TOKEN_AUDIENCE"),
        (web_token("ada@example.org", SERVICES_AUDIENCE), "TOKEN_AUDIENCE"),
        ("e30.e30.c2ln", "TOKEN_AUDIENCE"),
        (token_saying(aud=[SERVICES_AUDIENCE], sub=[], exp=10**400), "TOKEN_AUDIENCE"),
        (token_saying(aud={"a": 1}, exp="soon"), "TOKEN_AUDIENCE"),
        (token_saying(aud=AUDIENCE, exp=-(10**400)), "TOKEN_EXPIRED"),
    ],
)
def test_what_cannot_be_a_good_token_is_refused_before_a_review(
    token: str, reason: str, reviews: KubernetesReviews, kubernetes: FakeKubernetes
) -> None:
    kubernetes.users[token] = User("ada@example.org")
    error = refusal(reviews, token=token)
    assert isinstance(error, errors.Unauthenticated) and error.reason == reason
    assert "kubectl create token" in error.message
    assert kubernetes.requests == []


def test_the_api_server_judges_what_has_just_expired(reviews: KubernetesReviews, kubernetes: FakeKubernetes) -> None:
    token = web_token("ada@example.org", expiry_s=NOW_S - 9)
    kubernetes.users[token] = User("ada@example.org")
    check(reviews, token=token)


def test_a_remembered_token_is_refused_once_it_has_expired(api: Any, kubernetes: FakeKubernetes, clock: Clock) -> None:
    token = web_token("ada@example.org", expiry_s=NOW_S)
    kubernetes.users[token] = User("ada@example.org")
    kubernetes.allowed.add(("ada@example.org", "get", "studies"))
    now_s = [NOW_S - 30]
    reviews = KubernetesReviews(api, AUDIENCE, NAMESPACE, "lab-synthmix", clock, wall_clock=lambda: now_s[0])
    check(reviews, token=token)
    now_s[0] = NOW_S + 11
    assert refusal(reviews, token=token).reason == "TOKEN_EXPIRED"


def test_reviews_that_wait_are_bounded(
    reviews: KubernetesReviews, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "MOST_REVIEWS", 3)
    tokens = [web_token("ada@example.org", number=number) for number in range(5)]
    for token in tokens:
        kubernetes.users[token] = User("ada@example.org")

    async def ask(token: str) -> str:
        try:
            await authenticate(f"Bearer {token}", GET_STUDY, StaticTokens.of(TOKEN), reviews)
        except errors.ResourceExhausted as error:
            return error.reason
        return "in"

    async def ask_all() -> list[str]:
        with kubernetes.lock:  # the server answers nothing
            asked = [asyncio.create_task(ask(token)) for token in tokens]
            await asyncio.sleep(0.1)
            assert [task.done() for task in asked] == [False, False, False, True, True]
            asked[0].cancel()  # a caller who gives up leaves its review to the API server, and no place for another
            await asyncio.sleep(0.05)
            assert await ask(web_token("ada@example.org", number=9)) == "TOO_MANY_REVIEWS"
        return [await task for task in asked[1:]]

    assert asyncio.run(ask_all()) == ["in", "in", "TOO_MANY_REVIEWS", "TOO_MANY_REVIEWS"]
    for token in tokens:
        check(reviews, token=token)  # there are places again


# Whose


def identity(reviews: KubernetesReviews | None, token: str, method: str = GET_STUDY) -> Identity:
    return asyncio.run(authenticate(f"Bearer {token}", method, StaticTokens.of(TOKEN, "shared-token"), reviews))


def test_who_calls(reviews: KubernetesReviews, kubernetes: FakeKubernetes) -> None:
    assert identity(reviews, TOKEN).name == "shared-token"
    assert not identity(reviews, TOKEN).names_others, "whoever has a static token speaks for nobody else"
    found = identity(reviews, ADAS)
    assert (found.name, found.names_others) == ("ada@example.org", False)


def test_a_service_is_let_in_by_a_token_of_its_own_audience(
    reviews: KubernetesReviews, kubernetes: FakeKubernetes
) -> None:
    kubernetes.users[OWN] = User(CONTROL, (SERVICES_AUDIENCE,))
    for method in served_methods():
        found = identity(reviews, OWN, method)
        assert (found.name, found.names_others) == (CONTROL, True)
        assert not asyncio.run(found.administration.allows())
    assert kubernetes.reviews == [{"token": OWN, "audiences": [SERVICES_AUDIENCE]}]


def test_a_service_accounts_token_for_callers_is_a_callers(
    reviews: KubernetesReviews, kubernetes: FakeKubernetes
) -> None:
    token = web_token(CONTROL)
    kubernetes.users[token] = User(CONTROL)
    kubernetes.allowed.add((CONTROL, "get", "studies"))
    assert not identity(reviews, token).names_others


def test_what_a_token_says_of_itself_is_believed_to_nobody(
    reviews: KubernetesReviews, kubernetes: FakeKubernetes
) -> None:
    """It says that it is study control's; the API server knows better."""
    kubernetes.users[OWN] = User("eve", (SERVICES_AUDIENCE,))
    assert refusal(reviews, token=OWN).reason == "TOKEN_AUDIENCE"
    kubernetes.users.clear()
    other = web_token(CONTROL, SERVICES_AUDIENCE, number=1)
    assert refusal(reviews, token=other).reason == "TOKEN_WRONG"


def test_who_may_change_what_is_anothers(reviews: KubernetesReviews, kubernetes: FakeKubernetes) -> None:
    assert asyncio.run(identity(reviews, TOKEN).administration.allows())
    administration = identity(reviews, ADAS).administration
    assert kubernetes.count("create", "subjectaccessreviews") == 1, "the right is asked for when it matters"
    assert not asyncio.run(administration.allows())
    assert administration.remedy == (
        "`kubectl create rolebinding NAME --namespace lab --clusterrole lab-synthmix-admin --user ada@example.org`"
    )
    assert kubernetes.reviews[-1]["resourceAttributes"] == {
        "group": "synthmix.io",
        "resource": "studies",
        "verb": "administer",
        "namespace": NAMESPACE,
    }
    kubernetes.allowed.add(("ada@example.org", "administer", "studies"))
    reviews._rights._answers.clear()
    assert asyncio.run(identity(reviews, ADAS).administration.allows())


def test_a_name_that_is_too_long_to_own_anything(reviews: KubernetesReviews, kubernetes: FakeKubernetes) -> None:
    kubernetes.users[ADAS] = User("x" * 513)
    assert refusal(reviews).reason == "USER_NAME_TOO_LONG"


# Static tokens


def test_tokens_of_mounted_files_change_without_a_restart(tmp_path: Path) -> None:
    """As the kubelet changes them: all files of a Secret at once, by a link to another folder."""

    def mount(**files: str) -> None:
        folder = tmp_path / f"..{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name, text in files.items():
            (folder / name.replace("_", "-")).write_text(text)
        (tmp_path / "..new").symlink_to(folder.name)
        (tmp_path / "..new").replace(tmp_path / "..data")

    mount(token="first\n")
    for name in ("token", "previous-token"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    tokens = static_tokens({"SYNTHMIX_TOKEN_FOLDER": str(tmp_path), "SYNTHMIX_TOKEN_OWNER": "shared-token"})

    def accepted() -> list[str]:
        return [token for token in ("first", "second", "third", "") if tokens.accept(token)]

    assert (accepted(), tokens.current, tokens.owner) == (["first"], "first", "shared-token")
    mount(token="second", previous_token="first")
    assert (accepted(), tokens.current) == (["first", "second"], "second")
    mount(token="third", previous_token="second")
    assert accepted() == ["second", "third"]
    mount(token="third", previous_token="")
    assert accepted() == ["third"]
    mount(previous_token="third")
    with pytest.raises(errors.Unavailable, match="holds no token"):
        accepted()
    mount(token="first")
    assert accepted() == ["first"]


def test_every_static_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: bool(compared.append((one, other)) or one == other))
    tokens = StaticTokens(lambda: ("current", "previous"))
    assert tokens.accept("current") and tokens.accept("previous") and not tokens.accept("neither")
    shown = [token for token in (b"current", b"previous", b"neither") for _ in range(2)]
    assert compared == list(zip(shown, [b"current", b"previous"] * 3, strict=True))


def test_a_static_token_is_required_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(errors.FailedPrecondition, match="SYNTHMIX_TOKEN is not set") as caught:
        static_tokens({})
    assert caught.value.reason == "SETTING_MISSING"
    with pytest.raises(errors.FailedPrecondition, match=f"SYNTHMIX_TOKEN_FOLDER is '{tmp_path}'") as caught:
        static_tokens({"SYNTHMIX_TOKEN_FOLDER": str(tmp_path), "SYNTHMIX_TOKEN": "t"})
    assert caught.value.reason == "SETTING_INVALID"


def test_a_service_shows_its_accounts_token_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "token"
    shown = token_for_services({"SYNTHMIX_SERVICE_TOKEN_FILE": str(file), "SYNTHMIX_TOKEN": "static"})
    with pytest.raises(errors.Unavailable, match="holds no token"):
        shown()
    file.write_text("first")
    assert shown() == "first"
    file.write_text("second\n")
    assert shown() == "second"
    assert token_for_services({"SYNTHMIX_TOKEN": "static"})() == "static"


# Over gRPC


class Studies(studies_pb2_grpc.StudyServiceServicer):
    async def GetStudy(self, request: Any, context: Any) -> studies_pb2.Study:
        return studies_pb2.Study(name=request.name)

    async def CreateStudy(self, request: Any, context: Any) -> operations_pb2.Operation:
        return operations_pb2.Operation()

    async def WatchStudy(self, request: Any, context: Any) -> Any:
        yield studies_pb2.WatchStudyResponse(resume_marker="1")


def with_server(reviews: KubernetesReviews, body: Callable[[grpc.aio.Channel], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        server = grpc.aio.server(interceptors=interceptors("test", StaticTokens.of(TOKEN), reviews))
        studies_pb2_grpc.add_StudyServiceServicer_to_server(Studies(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
            await body(channel)
        await server.stop(0)

    asyncio.run(main())


def test_callers_over_grpc(reviews: KubernetesReviews) -> None:
    metadata = (("authorization", f"Bearer {ADAS}"),)

    async def body(channel: grpc.aio.Channel) -> None:
        stub = studies_pb2_grpc.StudyServiceStub(channel)
        study = await stub.GetStudy(studies_pb2.GetStudyRequest(name="studies/demo"), metadata=metadata)
        assert study.name == "studies/demo"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateStudy(studies_pb2.CreateStudyRequest(), metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.WatchStudy(studies_pb2.WatchStudyRequest(), metadata=metadata):
                pytest.fail("a stream began without the right")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "watch studies.synthmix.io" in (caught.value.details() or "")
        async for response in stub.WatchStudy(
            studies_pb2.WatchStudyRequest(), metadata=(("authorization", f"Bearer {TOKEN}"),)
        ):
            assert response.resume_marker == "1"

    with_server(reviews, body)


def test_a_slow_api_server_holds_up_only_who_waits_for_it(
    reviews: KubernetesReviews, kubernetes: FakeKubernetes
) -> None:
    async def both() -> list[str]:
        ended: list[str] = []

        async def call(name: str, token: str) -> None:
            await authenticate(f"Bearer {token}", GET_STUDY, StaticTokens.of(TOKEN), reviews)
            ended.append(name)

        kubernetes.lock.acquire()  # the server answers nothing
        slow = asyncio.create_task(call("slow", ADAS))
        await asyncio.sleep(0.05)
        await call("quick", TOKEN)
        kubernetes.lock.release()
        await slow
        return ended

    assert asyncio.run(both()) == ["quick", "slow"]


# Settings


def test_a_server_without_an_audience_asks_no_api_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert asyncio.run(kubernetes_reviews(ServerSettings("h:1", "h:2", StaticTokens.of(TOKEN)))) is None


def test_an_audience_without_a_cluster_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    settings = ServerSettings(
        "h:1", "h:2", StaticTokens.of(TOKEN), KubernetesSettings(namespace=NAMESPACE, audience=AUDIENCE)
    )
    with pytest.raises(errors.FailedPrecondition, match="service account") as caught:
        asyncio.run(kubernetes_reviews(settings))
    assert caught.value.reason == "KUBERNETES_NOT_CONFIGURED"


@pytest.mark.parametrize("text", [None, "a: [", "{}"], ids=["absent", "no YAML", "no context"])
def test_a_kubeconfig_that_cannot_be_used(text: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "kubeconfig").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with pytest.raises(errors.FailedPrecondition, match="the Kubernetes API cannot be used"):
        kubernetes_api.connect()
