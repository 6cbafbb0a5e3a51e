"""A front end's connection to Ray, made when it is first needed and again when it was lost."""

import logging
import socket
import threading
from typing import Any

from synthmix.service_kit.errors import Unavailable

log = logging.getLogger(__name__)

NAMESPACE = "synthmix"
CONNECT_TIMEOUT_SECONDS = 5.0


class RayConnection:
    """Connects to the Ray cluster at host:port (a head on this machine) or ray://host:port (a Ray Client server)."""

    def __init__(self, address: str):
        self.address = address
        self._lock = threading.Lock()

    def ensure(self) -> Any:
        """The ray module, connected. Raises Unavailable if the cluster does not answer."""
        import ray

        with self._lock:
            if ray.is_initialized():
                try:
                    ray.nodes()
                except Exception as error:
                    log.warning("the connection to Ray was lost: %s", error)
                    ray.shutdown()
            if not ray.is_initialized():
                self._check_listens()
                try:
                    ray.init(self.address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
                except Exception as error:  # Ray raises many kinds, RuntimeError and ConnectionError among them
                    ray.shutdown()
                    raise Unavailable(
                        f"the Ray cluster at {self.address} does not answer ({type(error).__name__}: {error}); "
                        "check that it runs and that RAY_AUTH_TOKEN is its token",
                        reason="RAY_UNAVAILABLE",
                    ) from error
                log.info("connected to Ray at %s", self.address)
            return ray

    def _check_listens(self) -> None:
        """ray.init goes on for minutes trying an address where nothing listens."""
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"nothing listens at the Ray cluster's address {self.address} ({error}); "
                "check SYNTHMIX_RAY_ADDRESS and that Ray runs",
                reason="RAY_UNAVAILABLE",
            ) from error
