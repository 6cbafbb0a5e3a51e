"""Where the services are and what their callers must show. Light: no gRPC is imported to find out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from synthmix.client.user_files import read_user_file
from synthmix.local.connection import read_connection
from synthmix.service_kit.environment import SERVICES, tls_authorities
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument, SynthMixError, Unauthenticated
from synthmix.service_kit.extras import extra

if TYPE_CHECKING:
    from synthmix.client.release.connection import OpenRelease

ADDRESS_VARIABLE = "SYNTHMIX_ADDRESS"
TOKEN_VARIABLE = "SYNTHMIX_TOKEN"
TOKEN_FILE_VARIABLE = "SYNTHMIX_TOKEN_FILE"
HOME_VARIABLE = "SYNTHMIX_HOME"
RELEASE_VARIABLE = "SYNTHMIX_RELEASE"

Addresses = Mapping[str, str] | str


@dataclass(frozen=True)
class Endpoints:
    """How to reach a stack.

    Attributes:
        addresses: A gRPC target for each service, without a scheme.
        token: The bearer token of every call; "" where the release gives it.
        tls: Whether connections are encrypted.
        tls_ca: PEM file of the authorities to trust instead of the system's.
        tls_authority: What such a file would hold, where the release gives it.
        tls_names: The name that a service's certificate is for, where it is not its address.
        release: What holds the addresses open, if they lead to a release of the Helm chart; whoever uses it closes it.
    """

    addresses: Mapping[str, str]
    token: str = field(repr=False)
    tls: bool = False
    tls_ca: Path | None = None
    tls_authority: bytes = b""
    tls_names: Mapping[str, str] = field(default_factory=dict)
    release: "OpenRelease | None" = None

    def place_of(self, service: str) -> str:
        """Where the service is, for a person."""
        return str(self.release or self.addresses[service])

    def bearer(self) -> str:
        """The token of a call that is made now."""
        return self.release.token() if self.release else self.token


def default_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a stack keeps everything on this machine: SYNTHMIX_HOME, or ~/.synthmix."""
    home = environment.get(HOME_VARIABLE)
    return Path(home).expanduser() if home else Path.home() / ".synthmix"


def find_endpoints(
    home: Path | None = None,
    *,
    addresses: Addresses | None = None,
    release: str | None = None,
    kube_context: str | None = None,
    token: str | None = None,
    tls_ca: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Endpoints:
    """Decides which stack to talk to.

    The first that is given wins: `addresses` or `release`; `home`; SYNTHMIX_ADDRESS or SYNTHMIX_RELEASE;
    SYNTHMIX_HOME; ~/.synthmix. A home's stack says its own token; an address takes it from `token`, SYNTHMIX_TOKEN or
    the file SYNTHMIX_TOKEN_FILE; a release takes it from these too, or else from its Secret or a service account.

    Args:
        home: The home of a stack that runs on this machine.
        addresses: One address of all services (an ingress), or an address of each, which as text is written
            "study-control=host:port,image-synthesis=host:port,...". `https://host` asks for TLS.
        release: NAMESPACE/NAME of a release of the Helm chart, or NAME in the kubeconfig context's namespace. Its
            services are forwarded through the Kubernetes API until the result's `release` is closed.
        kube_context: The kubeconfig's context to find the release by; the current one if not given.
        token: The bearer token.
        tls_ca: PEM file of the authorities to trust; asks for TLS. Without it, a release that serves TLS gives its own,
            and SYNTHMIX_TLS_CA is for whoever may not read that; at an address SYNTHMIX_TLS_CA is the same as this.

    Raises:
        InvalidArgument: An address or the token's file can't be read, or more than one stack is named.
        NotFound: There is no such release.
        Unauthenticated: There is no token.
        Unavailable: No stack runs at the home, or one that isn't ready.
    """
    if release is not None and (addresses is not None or home is not None):
        raise InvalidArgument(
            f"a release ({release!r}) and {'an address' if addresses is not None else 'a home'} are given; give one: "
            "--release for a release of the Helm chart, --address for another stack, --home for one on this machine",
            reason="SEVERAL_STACKS",
        )
    if addresses is None and home is None and release is None:
        addresses = environment.get(ADDRESS_VARIABLE) or None
        release = environment.get(RELEASE_VARIABLE) or None
        if addresses and release:
            raise InvalidArgument(
                f"{ADDRESS_VARIABLE} and {RELEASE_VARIABLE} are both set; unset one, or give --address or --release",
                reason="SEVERAL_STACKS",
            )
    if release is not None:
        token = token or _token_of(environment)
        return _release_endpoints(release, kube_context, token, tls_ca, environment)
    if kube_context is not None:
        raise InvalidArgument(
            f"--kube-context {kube_context} chooses where a release is looked for; give --release or set "
            f"{RELEASE_VARIABLE} too, or leave it out",
            reason="KUBE_CONTEXT_WITHOUT_RELEASE",
        )
    if addresses is None:
        connection = read_connection(home or default_home(environment))
        return Endpoints(addresses=dict(connection.services), token=token or connection.token)
    token = token or _token_of(environment)
    if not token:
        raise Unauthenticated(f"no token for {addresses}; give --token or set {TOKEN_VARIABLE}", reason="TOKEN_MISSING")
    tls_ca = tls_ca or tls_authorities(environment)
    by_service = _by_service(addresses)
    schemes = {address.partition("://")[0] if "://" in address else "http" for address in by_service.values()}
    if len(schemes) > 1 or not schemes <= {"http", "https"}:
        raise _bad_address(", ".join(by_service.values()), "start all with https://, or none")
    return Endpoints(
        addresses={service: _target(address) for service, address in by_service.items()},
        token=token,
        tls=schemes == {"https"} or tls_ca is not None,
        tls_ca=tls_ca,
    )


def _token_of(environment: Mapping[str, str]) -> str:
    """What the environment says, or a file that it names; "" if neither does."""
    token, path = environment.get(TOKEN_VARIABLE, ""), environment.get(TOKEN_FILE_VARIABLE)
    if token or not path:
        return token
    try:
        token = read_user_file(Path(path)).decode("ascii").strip()
    except InvalidArgument as error:
        raise InvalidArgument(
            f"the token: {error.message}; check {TOKEN_FILE_VARIABLE}", reason="TOKEN_FILE_UNREADABLE"
        ) from None
    except UnicodeDecodeError:
        token = ""
    if not token:
        raise InvalidArgument(
            f"{path} holds no token; check {TOKEN_FILE_VARIABLE}, and that the file is text",
            reason="TOKEN_FILE_UNREADABLE",
        )
    return token


def _release_endpoints(
    release: str, kube_context: str | None, token: str, tls_ca: Path | None, environment: Mapping[str, str]
) -> Endpoints:
    with extra("release", "a release"):
        from synthmix.client.release.connection import OpenRelease  # Kubernetes' client takes a second to import

    opened = OpenRelease(release, kube_context, token)
    try:
        if not opened.tls_names:
            if tls_ca is not None:
                raise InvalidArgument(
                    f"--tls-ca is of no use with {opened}, which serves no TLS: the Kubernetes API encrypts what is "
                    "forwarded, and the kubeconfig says which authorities it trusts; leave it out",
                    reason="TLS_CA_WITH_RELEASE",
                )
            return Endpoints(addresses=opened.addresses, token="", release=opened)
        authority = b""
        if tls_ca is None:
            try:
                authority = opened.authority()
            except FailedPrecondition:  # such as for whoever may not read the release's Secret
                tls_ca = tls_authorities(environment)
                if tls_ca is None:
                    raise
        return Endpoints(
            addresses=opened.addresses,
            token="",
            tls=True,
            tls_ca=tls_ca,
            tls_authority=authority,
            tls_names=opened.tls_names,
            release=opened,
        )
    except SynthMixError:
        opened.close()
        raise


def _by_service(addresses: Addresses) -> dict[str, str]:
    if isinstance(addresses, str):
        if "=" not in addresses:
            return dict.fromkeys(SERVICES, addresses.strip())
        pairs = (item.partition("=") for item in addresses.split(",") if item.strip())
        addresses = {service.strip(): address.strip() for service, _, address in pairs}
    if set(addresses) != set(SERVICES):
        raise _bad_address(
            ", ".join(f"{key}={value}" for key, value in addresses.items()),
            f"name each of {', '.join(SERVICES)} once, or give one address for all",
        )
    return dict(addresses)


def _target(address: str) -> str:
    scheme, separator, rest = address.rpartition("://")
    host = rest.rstrip("/")
    port = host.rpartition(":")[2]
    if separator and not port.isdecimal():
        host, port = f"{host}:{443 if scheme == 'https' else 80}", "443"
    if not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host or host.startswith(":"):
        raise _bad_address(address, "write host:port, or https://host for TLS on port 443")
    return host


def _bad_address(address: str, remedy: str) -> InvalidArgument:
    return InvalidArgument(f"address {address!r} cannot be used; {remedy}", reason="ADDRESS_INVALID")
