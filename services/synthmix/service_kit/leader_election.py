"""Which of a service's replicas leads: the one that holds a Lease of the Kubernetes API.

kubernetes.leaderelection (37.0) isn't used. Its elector can't be stopped, so it never releases the Lease and each
rolling update waits until that has expired; an answer that isn't HTTP, such as a refused connection, ends its thread;
its requests have no deadline, so a leader whose connection hangs goes on leading while another takes over; and it
compares readings of the wall clock.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from synthmix.service_kit import metrics
from synthmix.service_kit.errors import FailedPrecondition, SynthMixError
from synthmix.service_kit.kubernetes_api import CALL_TIMEOUT_SECONDS, Right, requiring

log = logging.getLogger(__name__)

# client-go's defaults. A leader stops leading 5 s before anyone may take its lease.
LEASE_SECONDS = 15
RENEW_DEADLINE_SECONDS = 10.0
RETRY_SECONDS = 2.0


class LeaderElection:
    """Takes part in the election for one Lease.

    No two replicas ever lead at once, as long as their clocks run at the same speed. A leader leads until
    RENEW_DEADLINE_SECONDS after it *sent* its last successful renewal. Others take the lease only once they have seen
    it unchanged for LEASE_SECONDS, which began later than that: they measure on their own clock and compare no times
    that another machine wrote. Every write names the resourceVersion that it replaces, so of two who try, one fails.
    Whoever edits or deletes the lease by hand may have two lead for some seconds.

    Args:
        api: A kubernetes.client.ApiClient.
        service: For the metric synthmix_leader.
        identity: This replica's name. Even if two have the same, only one leads.
        clock: In seconds.
    """

    def __init__(
        self,
        api: Any,
        service: str,
        namespace: str,
        lease: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._api = api
        self._namespace = namespace
        self._lease = lease
        self._identity = identity
        self._clock = clock
        self._leads_until_s = float("-inf")
        # The acquireTime that this replica wrote last: it tells its own lease from that of a namesake or a predecessor.
        self._acquire_time: datetime | None = None
        # The resourceVersion of the lease as another holds it, and when it was first seen so.
        self._seen_version = ""
        self._seen_s = 0.0
        metrics.LEADER.labels(service).set_function(lambda: float(self.leads()))

    def leads(self) -> bool:
        return self._clock() < self._leads_until_s

    async def run(self) -> None:
        """Endless: takes part until it is cancelled, then releases the lease, so that the next needn't wait."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="leader-election") as thread:
            try:
                while True:
                    await loop.run_in_executor(thread, self._logging_failure, self.attempt)
                    await asyncio.sleep(RETRY_SECONDS)
            finally:
                await loop.run_in_executor(thread, self._logging_failure, self.release)

    def attempt(self) -> None:
        """Takes the lease if it is free, renews it if it is this replica's, and otherwise watches it.

        Raises:
            SynthMixError: As synthmix.service_kit.kubernetes_api.requiring does.
        """
        began_s, led = self._clock(), self.leads()
        lease = self._read()
        if lease is None:
            written = self._create()
        elif self._is_ours(lease):
            written = self._write(lease, self._identity, LEASE_SECONDS)
        elif self._is_free(lease):
            written = self._take(lease)
        else:
            self._leads_until_s = float("-inf")
            written = False
        if written:
            self._leads_until_s = began_s + RENEW_DEADLINE_SECONDS
        if led != self.leads():
            log.info("%s %s lead by lease %s", self._identity, "begins to" if self.leads() else "doesn't", self._lease)

    def release(self) -> None:
        """Stops leading, and lets another lead at once. Raises SynthMixError as attempt does."""
        self._leads_until_s = float("-inf")
        lease = self._read()
        if lease is not None and self._is_ours(lease):
            self._write(lease, "", 1)
            log.info("%s releases lease %s", self._identity, self._lease)
        self._acquire_time = None

    def _logging_failure(self, step: Callable[[], None]) -> None:
        """Failures are left to the next attempt; without a successful one the replica soon stops leading by itself."""
        try:
            step()
        except SynthMixError as error:
            log.warning("lease %s: %s", self._lease, error.message)
        except Exception:  # the library raises many kinds
            log.exception("lease %s", self._lease)

    def _is_ours(self, lease: Any) -> bool:
        return (
            self._acquire_time is not None
            and lease.spec is not None
            and lease.spec.holder_identity == self._identity
            and lease.spec.acquire_time == self._acquire_time
        )

    def _is_free(self, lease: Any) -> bool:
        """Nobody holds it, or its holder hasn't renewed it for as long as it said it would."""
        if not lease.spec or not lease.spec.holder_identity:
            return True
        if lease.metadata.resource_version != self._seen_version:
            self._seen_version, self._seen_s = lease.metadata.resource_version, self._clock()
            return False
        return self._clock() >= self._seen_s + (lease.spec.lease_duration_seconds or LEASE_SECONDS)

    def _read(self) -> Any | None:
        from kubernetes.client.exceptions import NotFoundException

        try:
            with requiring(self._right("get")):
                return self._leases().read_namespaced_lease(
                    self._lease, self._namespace, _request_timeout=CALL_TIMEOUT_SECONDS
                )
        except NotFoundException:
            return None

    def _create(self) -> bool:
        from kubernetes import client
        from kubernetes.client.exceptions import ConflictException, NotFoundException

        self._acquire_time = _now()
        lease = client.V1Lease(
            metadata=client.V1ObjectMeta(name=self._lease, namespace=self._namespace),
            spec=client.V1LeaseSpec(
                holder_identity=self._identity,
                lease_duration_seconds=LEASE_SECONDS,
                acquire_time=self._acquire_time,
                renew_time=self._acquire_time,
                lease_transitions=0,
            ),
        )
        try:
            with requiring(self._right("create")):
                self._leases().create_namespaced_lease(self._namespace, lease, _request_timeout=CALL_TIMEOUT_SECONDS)
            return True
        except ConflictException:  # another was faster
            return False
        except NotFoundException:
            raise FailedPrecondition(
                f"there is no namespace {self._namespace}; check SYNTHMIX_NAMESPACE", reason="NAMESPACE_NOT_FOUND"
            ) from None

    def _take(self, lease: Any) -> bool:
        from kubernetes import client

        self._acquire_time = _now()
        transitions = (lease.spec.lease_transitions or 0) + 1 if lease.spec else 0
        lease.spec = client.V1LeaseSpec(acquire_time=self._acquire_time, lease_transitions=transitions)
        return self._write(lease, self._identity, LEASE_SECONDS)

    def _write(self, lease: Any, holder: str, seconds: int) -> bool:
        """Writes the lease as it was read but for its holder; False if anyone has written or deleted it since."""
        from kubernetes.client.exceptions import ConflictException, NotFoundException

        lease.spec.holder_identity = holder
        lease.spec.lease_duration_seconds = seconds
        lease.spec.renew_time = _now()
        try:
            with requiring(self._right("update")):
                self._leases().replace_namespaced_lease(
                    self._lease, self._namespace, lease, _request_timeout=CALL_TIMEOUT_SECONDS
                )
            return True
        except (ConflictException, NotFoundException):
            return False

    def _leases(self) -> Any:
        from kubernetes import client

        return client.CoordinationV1Api(self._api)

    def _right(self, verb: str) -> Right:
        return Right(verb, "leases", "coordination.k8s.io", self._namespace)


def _now() -> datetime:
    """Now, never at a whole second: the API server insists on the fraction, which Python leaves out if it is zero."""
    now = datetime.now(UTC)
    return now.replace(microsecond=max(1, now.microsecond))
