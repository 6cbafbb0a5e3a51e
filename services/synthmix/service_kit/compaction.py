"""Has a SeaweedFS of this machine give back the room of deleted objects, which it does by itself only much later."""

import struct
from pathlib import Path

import grpc

TIMEOUT_SECONDS = 60.0
GARBAGE_THRESHOLD = 0.05
_METHOD = "/master_pb.Seaweed/VacuumVolume"
# VacuumVolumeRequest of SeaweedFS's master.proto, whose field 1 is `float garbage_threshold`.
_REQUEST = b"\x0d" + struct.pack("<f", GARBAGE_THRESHOLD)


def compact(address: str, certificate: Path) -> None:
    """Returns when the volumes of which a twentieth is deleted are compacted.

    Args:
        address: host:port of the master's gRPC server.
        certificate: A PEM file with the key and the certificate that its servers show and ask for.

    Raises:
        OSError: The file cannot be read.
        grpc.RpcError: The server cannot be reached, or did not do it in time.
    """
    pem = certificate.read_bytes()
    credentials = grpc.ssl_channel_credentials(root_certificates=pem, private_key=pem, certificate_chain=pem)
    with grpc.secure_channel(address, credentials, [("grpc.enable_http_proxy", 0)]) as channel:
        channel.unary_unary(_METHOD)(_REQUEST, timeout=TIMEOUT_SECONDS)
