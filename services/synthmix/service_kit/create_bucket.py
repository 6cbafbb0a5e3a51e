"""Makes the bucket that the settings name, unless it is there: `python -m synthmix.service_kit.create_bucket`.

Where there are the keys of MinIO's root user, it makes the user of the settings too. A cluster runs it once, as a Job;
the local stack's object storage makes its bucket itself.
"""

import logging

from synthmix.service_kit.environment import object_store_root, object_store_settings
from synthmix.service_kit.errors import SynthMixError
from synthmix.service_kit.minio_user import make_user
from synthmix.service_kit.s3_object_store import S3ObjectStore, when_available


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = object_store_settings()
        root = object_store_root(settings)
        when_available(S3ObjectStore(root or settings).create_bucket)
        if root:
            make_user(root, settings)
            logging.info("the user of the settings may use bucket %s", settings.bucket)
    except SynthMixError as error:
        raise SystemExit(error.message) from None
    logging.info("bucket %s is there at %s", settings.bucket, settings.endpoint_url)


if __name__ == "__main__":
    main()
