"""A release that is open to its callers for as long as a command runs."""

from collections.abc import Callable, Mapping

from synthmix.client.release.access import connect_as_caller
from synthmix.client.release.authority import authority_of
from synthmix.client.release.discovery import Pod, find_release, pods_of
from synthmix.client.release.forwarding import Forwards
from synthmix.client.release.tokens import ReleaseToken
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.errors import SynthMixError


class OpenRelease:
    """Finds a release, and forwards to its services until it is closed.

    Args:
        name: NAMESPACE/NAME, or NAME in the context's namespace.
        context: Of the kubeconfig; its current one if not given.
        token: Instead of the release's.

    Raises:
        SynthMixError: There is no way to it; the message says what to do.
    """

    def __init__(self, name: str, context: str | None = None, token: str = ""):
        self._access = connect_as_caller(context)
        self._found = find_release(self._access, name)
        self._token: Callable[[], str] = (lambda: token) if token else self._own_token()
        self._forwards = Forwards(self._access, self._found, SERVICES)

    def __str__(self) -> str:
        return f"release {self._found}"

    @property
    def addresses(self) -> Mapping[str, str]:
        return self._forwards.addresses

    @property
    def tls_names(self) -> Mapping[str, str]:
        """The names that each service's certificate is for; empty where it serves no TLS."""
        services = self._found.services if self._found.tls_secret else {}
        return {service: item.name for service, item in services.items()}

    def authority(self) -> bytes:
        """Whom its certificates are trusted by, as PEM. Raises SynthMixError if that cannot be found out."""
        return authority_of(self._access, self._found)

    def token(self) -> str:
        """The token that is good now. Raises SynthMixError if there is none any more."""
        return self._token()

    def problem_of(self, service: str) -> SynthMixError | None:
        """Why the service can't be reached, where the forward knows."""
        return self._forwards.problem_of(service)

    def pods_of(self, service: str) -> list[Pod]:
        return pods_of(self._access, self._found, service)

    def close(self) -> None:
        self._forwards.close()
        self._access.api.close()

    def _own_token(self) -> ReleaseToken:
        token = ReleaseToken(self._access, self._found)
        token()  # at once: what is missing is said before anything is begun
        return token
