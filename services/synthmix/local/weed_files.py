"""Writes what weed reads in a pod of its own: `python -m synthmix.local.weed_files FOLDER`.

There, security.toml closes the ports that it opens beside S3's, and users.json has the user of the settings.
"""

import json
import secrets
import sys
from pathlib import Path

from synthmix.local.certificate import certificate_file
from synthmix.local.home import ObjectStorageKeys, write_private_text
from synthmix.local.object_storage import security_settings, write_users
from synthmix.service_kit.environment import object_store_settings
from synthmix.service_kit.errors import SynthMixError


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        settings = object_store_settings()
    except SynthMixError as error:
        raise SystemExit(error.message) from None
    write_users(folder / "users.json", ObjectStorageKeys(settings.access_key, settings.secret_key), settings.bucket)
    certificate = certificate_file(folder / "certificate.pem")
    security = security_settings(certificate, secrets.token_hex(16))
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in security.items())
    write_private_text(folder / "security.toml", text)


if __name__ == "__main__":
    main()
