"""TLS of the services: the certificate that they show, and the authorities that they trust one another by."""

import logging
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from synthmix.service_kit.environment import ServerTls, tls_authorities
from synthmix.service_kit.errors import FailedPrecondition

log = logging.getLogger(__name__)

BEGINNING_OF_A_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """What a server shows: the files as they are at each new connection, so that renewing them takes no restart.

    While a certificate and its key do not belong together, as between the two writes of a renewal, those that gRPC has
    stay in use.

    Raises:
        FailedPrecondition: A file cannot be read, or is none of its kind, or the two do not belong together.
    """
    files = _CertificateFiles(tls)
    return grpc.dynamic_ssl_server_credentials(files.read(), files.changed)


def service_credentials(environment: Mapping[str, str] = os.environ) -> grpc.ChannelCredentials | None:
    """Of the channels of services to one another; None where they use no TLS. Raises FailedPrecondition."""
    path = tls_authorities(environment)
    if path is None:
        return None
    return grpc.ssl_channel_credentials(_read(path, "SYNTHMIX_TLS_CA", BEGINNING_OF_A_CERTIFICATE))


class _CertificateFiles:
    """A certificate and its key, read again when they have changed."""

    def __init__(self, tls: ServerTls):
        self._tls = tls
        self._seen: Any = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        self._seen = self._versions()
        certificate = _read(self._tls.certificate, "SYNTHMIX_TLS_CERTIFICATE", BEGINNING_OF_A_CERTIFICATE)
        key = _read(self._tls.key, "SYNTHMIX_TLS_KEY", b"PRIVATE KEY-----")
        _check_pair(self._tls)
        return grpc.ssl_server_certificate_configuration([(key, certificate)])

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC calls this at each new connection. What cannot be read leaves the certificate that it has in use."""
        try:
            return None if self._versions() == self._seen else self.read()
        except (FailedPrecondition, OSError) as error:
            log.error("the certificate is not renewed: %s", error)
            return None

    def _versions(self) -> list[tuple[int, ...]]:
        """What another file has, or another content of one. Those of a mounted Secret are links, which are moved."""
        stats = [os.stat(path) for path in (self._tls.certificate, self._tls.key) if path.exists()]
        return [(item.st_dev, item.st_ino, item.st_mtime_ns, item.st_size) for item in stats]


def _check_pair(tls: ServerTls) -> None:
    """Raises FailedPrecondition if gRPC, which does not say why, would refuse the two."""
    try:
        # Without a password, OpenSSL would ask for that of an encrypted key at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError) as error:  # OSError is ssl.SSLError's base
        raise FailedPrecondition(
            f"SYNTHMIX_TLS_CERTIFICATE, {str(tls.certificate)!r}, and SYNTHMIX_TLS_KEY, {str(tls.key)!r}, cannot be "
            f"used together ({error}); name a certificate and its own key, not encrypted",
            reason="SETTING_INVALID",
        ) from None


def _read(path: Path, variable: str, content: bytes) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(
            f"{variable} is {str(path)!r}, which cannot be read: {error.strerror}; name a PEM file that can be",
            reason="SETTING_INVALID",
        ) from None
    if content not in data:
        raise FailedPrecondition(
            f"{variable} is {str(path)!r}, which holds no {content.decode().strip('-')}; name a PEM file that does",
            reason="SETTING_INVALID",
        )
    return data
