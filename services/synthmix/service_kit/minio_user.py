"""The user of MinIO's whose keys services and workers hold: the one bucket is all that it can use."""

import time
from typing import Any
from urllib.parse import urlsplit

import urllib3
from minio.credentials import StaticProvider
from minio.error import MinioAdminException
from minio.minioadmin import MinioAdmin

from synthmix.service_kit.asking_again import ask_until
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.s3_object_store import connection_pool

# What MinIO lets each of its users do with themselves unless it is denied: give themselves another secret key, which
# shuts everybody else out, and make further keys, which stay good when theirs are changed.
ADMINISTERS_NOTHING = {"Effect": "Deny", "Action": ["admin:*"]}

# A server that has just started serves objects some seconds before it knows its users.
STARTING = "XMinioServerNotInitialized"
STARTING_SECONDS = 60.0
PAUSE_SECONDS = 0.5


def bucket_policy(bucket: str) -> dict[str, Any]:
    """What S3ObjectStore does, as a policy of IAM: for any S3 server."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetBucketLocation", "s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
            },
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
                "Resource": [f"arn:aws:s3:::{bucket}/*"],
            },
        ],
    }


def make_user(root: ObjectStoreSettings, user: ObjectStoreSettings) -> None:
    """Makes the user, or gives it the secret key and the policy that it has to have.

    Args:
        root: The same server, with the keys of its root user.

    Raises:
        FailedPrecondition: The server does not do it.
    """
    parts = urlsplit(root.endpoint_url)
    credentials = StaticProvider(root.access_key, root.secret_key)
    admin = MinioAdmin(
        endpoint=parts.netloc,
        credentials=credentials,
        secure=parts.scheme == "https",
        http_client=connection_pool(root),
    )
    name, policy = f"bucket-{user.bucket}", bucket_policy(user.bucket)
    policy["Statement"].append(ADMINISTERS_NOTHING)
    try:
        ask_until(
            lambda: admin.policy_add(name, policy=policy),
            end_s=time.monotonic() + STARTING_SECONDS,
            pause_s=PAUSE_SECONDS,
            is_passing=lambda error: STARTING in str(error),
        )
        admin.user_add(user.access_key, user.secret_key)
        admin.policy_set(name, user=user.access_key)
    except (MinioAdminException, urllib3.exceptions.HTTPError) as error:
        raise FailedPrecondition(
            f"object storage at {root.endpoint_url} does not make the user of SYNTHMIX_OBJECT_STORE_ACCESS_KEY for "
            f"bucket {user.bucket!r} ({error}); check that it is MinIO, SYNTHMIX_OBJECT_STORE_ROOT_ACCESS_KEY and "
            "_ROOT_SECRET_KEY, and that the user's access key is not the root user's",
            reason="OBJECT_STORAGE_USER_REFUSED",
        ) from error
