"""One replica leads: electors that contend for a Lease over real HTTP, and what only the leader does."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from fake_kubernetes import NAMESPACE, Clock, FakeKubernetes
from memory_object_store import MemoryObjectStore
from synthmix.service_kit import errors, leader_election, metrics, operations
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.leader_election import LEASE_SECONDS, RENEW_DEADLINE_SECONDS, RETRY_SECONDS, LeaderElection
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.resource_names import OperationName

LEASE = "study-control"
IDS = [f"{number:032x}" for number in range(3)]

Elector = Callable[[str], LeaderElection]


@pytest.fixture
def elector(api: Any, clock: Clock) -> Elector:
    return lambda identity: LeaderElection(api, "test", NAMESPACE, LEASE, identity, clock)


def holder(kubernetes: FakeKubernetes) -> str:
    return str(kubernetes.get("leases", LEASE)["spec"]["holderIdentity"])


def test_the_first_leads_and_the_second_waits(elector: Elector, kubernetes: FakeKubernetes, clock: Clock) -> None:
    first, second = elector("a"), elector("b")
    assert not first.leads()
    for _ in range(10):
        first.attempt()
        second.attempt()
        assert (first.leads(), second.leads(), holder(kubernetes)) == (True, False, "a")
        clock.now_s += RETRY_SECONDS
    spec = kubernetes.get("leases", LEASE)["spec"]
    assert (spec["leaseDurationSeconds"], spec["leaseTransitions"]) == (LEASE_SECONDS, 0)
    assert spec["renewTime"] > spec["acquireTime"]


def test_one_that_stops_is_followed_by_the_other(elector: Elector, kubernetes: FakeKubernetes, clock: Clock) -> None:
    first, second = elector("a"), elector("b")
    first.attempt()
    second.attempt()
    clock.now_s += RENEW_DEADLINE_SECONDS + 0.1
    assert not first.leads(), "it stops before another may begin"
    second.attempt()
    assert not second.leads()
    clock.now_s += LEASE_SECONDS - RENEW_DEADLINE_SECONDS
    second.attempt()
    assert second.leads()
    assert kubernetes.get("leases", LEASE)["spec"]["leaseTransitions"] == 1
    first.attempt()  # it comes back, as from a long pause
    assert (first.leads(), holder(kubernetes)) == (False, "b")


def test_a_released_lease_is_free_at_once(elector: Elector, kubernetes: FakeKubernetes) -> None:
    first, second = elector("a"), elector("b")
    first.attempt()
    second.attempt()
    first.release()
    assert (first.leads(), holder(kubernetes)) == (False, "")
    second.attempt()
    assert second.leads()
    first.release()  # it isn't its own to release
    assert holder(kubernetes) == "b"


def test_who_lost_the_lease_takes_it_again_when_it_is_free(elector: Elector) -> None:
    first, second = elector("a"), elector("b")
    first.attempt()
    first.release()
    second.attempt()
    first.attempt()
    assert (first.leads(), second.leads()) == (False, True)
    second.release()
    first.attempt()
    assert (first.leads(), second.leads()) == (True, False)


def test_of_two_who_write_at_once_one_is_refused(elector: Elector, kubernetes: FakeKubernetes) -> None:
    first, second = elector("a"), elector("b")
    first.attempt()
    first.release()

    def other_is_faster(verb: str, resource: str) -> None:
        kubernetes.before_write = lambda verb, resource: None
        second.attempt()

    kubernetes.before_write = other_is_faster
    first.attempt()
    assert (first.leads(), second.leads(), holder(kubernetes)) == (False, True, "b")


def test_of_two_who_make_it_at_once_one_is_refused(elector: Elector, kubernetes: FakeKubernetes) -> None:
    first, second = elector("a"), elector("b")

    def other_is_faster(verb: str, resource: str) -> None:
        kubernetes.before_write = lambda verb, resource: None
        second.attempt()

    kubernetes.before_write = other_is_faster
    first.attempt()
    assert (first.leads(), second.leads(), holder(kubernetes)) == (False, True, "b")


def test_an_edit_of_the_lease_costs_the_leader_one_renewal(
    elector: Elector, kubernetes: FakeKubernetes, clock: Clock
) -> None:
    first = elector("a")
    first.attempt()

    def annotate(verb: str, resource: str) -> None:
        kubernetes.before_write = lambda verb, resource: None
        lease = kubernetes.get("leases", LEASE)
        lease["metadata"]["annotations"] = {"edited": "yes"}
        kubernetes.put("leases", lease)

    kubernetes.before_write = annotate
    clock.now_s += RETRY_SECONDS
    first.attempt()
    assert first.leads()
    clock.now_s += RENEW_DEADLINE_SECONDS - RETRY_SECONDS - 0.1
    first.attempt()
    clock.now_s += 0.2
    assert first.leads()
    assert kubernetes.get("leases", LEASE)["metadata"]["annotations"] == {"edited": "yes"}


def test_a_renewal_counts_from_when_it_was_sent(elector: Elector, kubernetes: FakeKubernetes, clock: Clock) -> None:
    def slow(verb: str, resource: str) -> None:
        clock.now_s += RENEW_DEADLINE_SECONDS - 1.0

    kubernetes.before_write = slow
    first = elector("a")
    first.attempt()
    assert first.leads()
    clock.now_s += 1.0
    assert not first.leads()


def test_a_lease_whose_making_was_not_answered_is_known_as_its_own(
    elector: Elector, kubernetes: FakeKubernetes
) -> None:
    first = elector("a")
    kubernetes.losing_answers = True
    with pytest.raises(errors.Unavailable):
        first.attempt()
    assert not first.leads()
    kubernetes.losing_answers = False
    first.attempt()
    assert first.leads()


def test_a_lease_without_a_holder_is_free(elector: Elector, kubernetes: FakeKubernetes) -> None:
    kubernetes.put("leases", {"metadata": {"name": LEASE}})
    first = elector("a")
    first.attempt()
    assert first.leads()


@pytest.mark.parametrize("seed", range(5))
def test_never_do_two_lead(seed: int, elector: Elector, kubernetes: FakeKubernetes, clock: Clock) -> None:
    """Replicas that attempt, pause, restart and meet outages in any order; two of them have the same name."""
    randomness = random.Random(seed)
    electors = [elector(name) for name in ("a", "b", "b", "c")]
    led: set[int] = set()
    for _ in range(400):
        clock.now_s += randomness.choice([0.0, 0.5, 2.0, 2.0, 6.0])
        kubernetes.failing = 503 if randomness.random() < 0.1 else None
        number = randomness.randrange(len(electors))
        step = randomness.random()
        try:
            if step < 0.05:
                electors[number].release()
            elif step < 0.1:
                electors[number] = elector("b")  # it died, and its successor doesn't know of its lease
            else:
                electors[number].attempt()
        except errors.Unavailable:
            pass
        leaders = [index for index, item in enumerate(electors) if item.leads()]
        assert len(leaders) <= 1
        led.update(leaders)
    assert len(led) > 1, "the test saw the lead change hands"


def test_an_outage_of_the_api_server_ends_the_lead_and_the_next_begins_after_it(
    elector: Elector, kubernetes: FakeKubernetes, clock: Clock
) -> None:
    first = elector("a")
    first.attempt()
    kubernetes.failing = 503
    for _ in range(5):
        assert first.leads()
        clock.now_s += RETRY_SECONDS
        with pytest.raises(errors.Unavailable):
            first.attempt()
    clock.now_s += 0.1
    assert not first.leads()
    kubernetes.failing = None
    first.attempt()
    assert first.leads()


@pytest.mark.parametrize("verb", ["get", "create", "update"])
def test_a_right_that_is_missing_is_named(verb: str, elector: Elector, kubernetes: FakeKubernetes) -> None:
    if verb == "update":
        elector("z").attempt()
        kubernetes.get("leases", LEASE)["spec"]["holderIdentity"] = ""
    kubernetes.forbidden.add((verb, "leases"))
    with pytest.raises(errors.FailedPrecondition, match=rf"{verb} leases\.coordination\.k8s\.io in namespace lab"):
        elector("a").attempt()


def test_times_always_have_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server refuses a MicroTime without one, and Python leaves out a fraction of zero."""

    class WholeSecond(leader_election.datetime):
        @classmethod
        def now(cls, zone: Any = None) -> Any:
            return cls(2026, 1, 1, tzinfo=zone)

    monkeypatch.setattr(leader_election, "datetime", WholeSecond)
    assert leader_election._now().isoformat() == "2026-01-01T00:00:00.000001+00:00"


def test_the_metric_says_who_leads(elector: Elector, clock: Clock) -> None:
    def leader() -> float | None:
        return metrics.REGISTRY.get_sample_value("synthmix_leader", {"service": "test"})

    first = elector("a")
    assert leader() == 0.0
    first.attempt()
    assert leader() == 1.0
    clock.now_s += RENEW_DEADLINE_SECONDS
    assert leader() == 0.0, "even if the elector hangs"


# The endless task


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


def test_replicas_that_run_take_over_from_one_another(
    api: Any, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_election, "RETRY_SECONDS", 0.02)

    async def main() -> None:
        first, second = (LeaderElection(api, "test", NAMESPACE, LEASE, name) for name in ("a", "b"))
        first_task = asyncio.create_task(first.run())
        await wait_until(first.leads)
        second_task = asyncio.create_task(second.run())
        await asyncio.sleep(0.1)
        assert not second.leads()
        first_task.cancel()  # as serve() does on SIGTERM
        await asyncio.wait([first_task])
        assert not first.leads()
        await wait_until(second.leads)
        kubernetes.failing = 503
        await asyncio.sleep(0.1)
        kubernetes.failing = None  # outages are survived
        renewals = kubernetes.count("update", "leases")
        await wait_until(lambda: kubernetes.count("update", "leases") > renewals + 1)
        second_task.cancel()
        await asyncio.wait([second_task])

    asyncio.run(main())
    assert holder(kubernetes) == ""


# What the leader does


class StartsNothing(Operations):
    """Operations that only note what they would launch."""

    def __init__(self, store: MemoryObjectStore, leads: Callable[[], bool]):
        super().__init__("study-control", store, None, {}, lambda name: None, leads)  # type: ignore[arg-type]
        self.launched: list[OperationName] = []

    def _launch(self, name: OperationName) -> None:
        self.launched.append(name)


@pytest.fixture
def store() -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    for operation_id in IDS[:2]:
        name = OperationName("study-control", operation_id)
        records.write_record(store, records.OperationRecord(name, "studies", "", {}, records.now()))
    return store


def queued() -> float | None:
    labels = {"service": "study-control", "state": "queued"}
    return metrics.REGISTRY.get_sample_value("synthmix_operations", labels)


def test_only_the_leader_reconciles(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "RECONCILE_SECONDS", 0.05)
    leads = [False]
    service = StartsNothing(store, lambda: leads[0])

    async def main() -> None:
        task = asyncio.create_task(service.keep_going())
        await asyncio.sleep(0.3)
        assert service.launched == []
        assert queued() is None, "a replica that doesn't lead counts nothing"

        await service.start(IDS[2], "studies", "", {})
        await wait_until(lambda: bool(service.launched))
        assert service.launched == [OperationName("study-control", IDS[2])], "what it was asked for starts at once"

        leads[0] = True
        await wait_until(lambda: {item.id for item in service.launched} == set(IDS))
        assert queued() == 3

        leads[0] = False
        await wait_until(lambda: queued() is None)
        service.launched.clear()
        await asyncio.sleep(0.2)
        assert service.launched == []
        task.cancel()

    asyncio.run(main())


def test_who_loses_the_lead_stops_in_the_middle(store: MemoryObjectStore) -> None:
    service = StartsNothing(store, lambda: not service.launched)
    asyncio.run(service._reconcile())
    assert len(service.launched) == 1
