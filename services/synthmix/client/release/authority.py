"""By whom the certificate of a release is signed: what a caller trusts its services by."""

import base64

from kubernetes.client.exceptions import ApiException

from synthmix.client.release.access import Access, asking
from synthmix.client.release.discovery import Release
from synthmix.service_kit.errors import FailedPrecondition, PermissionDenied
from synthmix.service_kit.kubernetes_api import Right, as_json, said_by

KEY = "ca.crt"


def authority_of(access: Access, release: Release) -> bytes:
    """The PEM file in the Secret of the release's certificate.

    Raises:
        FailedPrecondition: The Secret does not give it, or the caller may not read that.
        SynthMixError: As `asking` does.
    """
    name, namespace = release.tls_secret, release.namespace
    right = Right("get", f"secrets/{name}", "", namespace)
    try:
        with asking(access, right):
            data = as_json(access.core.read_namespaced_secret, name, namespace).get("data") or {}
        authority = base64.b64decode(data.get(KEY, ""), validate=True)
        why = f"Secret {name} in namespace {namespace} has no key {KEY}, or an empty one"
    except PermissionDenied:
        authority, why = b"", f"you may not {right}"
    except ApiException as error:
        authority, why = b"", f"Secret {name} in namespace {namespace} cannot be read ({said_by(error)})"
    except ValueError:
        authority, why = b"", f"key {KEY} of Secret {name} in namespace {namespace} is not base64"
    if not authority:
        raise FailedPrecondition(
            f"release {release} serves TLS, and its certificate's authority is not known: {why}; have an administrator "
            "give you that authority's PEM file, and name it by --tls-ca or SYNTHMIX_TLS_CA",
            reason="TLS_AUTHORITY_MISSING",
        )
    return authority
