"""The certificate that object storage's servers show to one another and ask of whoever calls them by gRPC."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from synthmix.local.home import write_private_text
from synthmix.local.ports import LOOPBACK

VALID = timedelta(days=10 * 365)
# Longer than a stack runs without a start.
RENEWED_BEFORE_END = timedelta(days=365)
EARLIER = timedelta(days=1)  # for a clock that is set back


def certificate_file(path: Path) -> Path:
    """A PEM file with a key and its certificate, for this user only: made if it is not there, and anew in its last
    year, or if it cannot be read as one. It is its own authority, so that no other certificate is accepted.
    """
    if _valid_until(path) < datetime.now(UTC) + RENEWED_BEFORE_END:
        write_private_text(path, _made())
    return path


def _valid_until(path: Path) -> datetime:
    from cryptography import x509  # not at the top: only the start of a stack needs it
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        data = path.read_bytes()
        certificate, key = x509.load_pem_x509_certificate(data), load_pem_private_key(data, password=None)
    except (FileNotFoundError, ValueError):
        return datetime.min.replace(tzinfo=UTC)
    is_whole = certificate.public_key() == key.public_key()
    return certificate.not_valid_after_utc if is_whole else datetime.min.replace(tzinfo=UTC)


def _made() -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "synthmix object storage")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    parts = [
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
    ]
    return b"".join(parts).decode()
