"""How much callers may upload and import. Each bound is a setting of the operator's, and an error names it."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from synthmix.image_data.sources.archive import ArchiveLimits
from synthmix.service_kit.environment import whole_number
from synthmix.service_kit.errors import FieldViolation, ResourceExhausted
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import byte_size

REASON = "IMPORT_BOUND_EXCEEDED"
UPLOADS = "uploads/"
MOST_FILES = 200_000
# Of the disk, where no setting says otherwise.
_UPLOAD_SHARE = 0.25
_TOGETHER_SHARE = 0.5


@dataclass(frozen=True)
class ImportBounds:
    """What uploads and imports may hold.

    Attributes:
        upload_bytes: Of one upload.
        uploads_bytes: Of all uploads that object storage holds.
        receiving_bytes: Of all uploads that one process is receiving; they lie in its temporary folder.
        import_files: Files in one upload.
        import_bytes: Of these files, uncompressed.
    """

    upload_bytes: int
    uploads_bytes: int
    receiving_bytes: int
    import_files: int
    import_bytes: int

    @property
    def of_archives(self) -> ArchiveLimits:
        return ArchiveLimits(
            entries=self.import_files,
            total_bytes=self.import_bytes,
            entries_setting=VARIABLES["import_files"],
            total_bytes_setting=VARIABLES["import_bytes"],
        )

    def check_upload(self, field: str, size_bytes: int) -> None:
        """Raises ResourceExhausted if an upload is too large."""
        if size_bytes > self.upload_bytes:
            raise _beyond(
                field,
                f"an upload of {byte_size(size_bytes)}",
                byte_size(self.upload_bytes),
                "upload_bytes",
                "send less at a time, such as fewer or smaller images",
            )

    def check_import(self, field: str, size_bytes: int) -> None:
        """Raises ResourceExhausted if a stored upload is larger than what an import may take out of it."""
        if size_bytes > self.import_bytes:
            raise _beyond(
                field,
                f"an import of {byte_size(size_bytes)}",
                byte_size(self.import_bytes),
                "import_bytes",
                "import fewer or smaller images at a time",
            )

    def check_receiving(self, field: str, size_bytes: int, others_bytes: int) -> None:
        """Raises ResourceExhausted if an upload does not fit beside those that are being received."""
        if size_bytes + others_bytes > self.receiving_bytes:
            raise _beyond(
                field,
                f"an upload of {byte_size(size_bytes)} beside {byte_size(others_bytes)} that are being received",
                byte_size(self.receiving_bytes),
                "receiving_bytes",
                "try again when they have arrived",
            )

    def check_room(self, field: str, size_bytes: int, store: ObjectStore) -> None:
        """Raises ResourceExhausted if an upload does not fit beside those that object storage holds."""
        held_bytes = sum(item.size_bytes for item in store.list(UPLOADS))
        if size_bytes + held_bytes > self.uploads_bytes:
            raise _beyond(
                field,
                f"an upload of {byte_size(size_bytes)} beside {byte_size(held_bytes)} of earlier uploads",
                byte_size(self.uploads_bytes),
                "uploads_bytes",
                "try again when some of them have expired",
            )


VARIABLES = {
    "upload_bytes": "SYNTHMIX_UPLOAD_MOST_BYTES",
    "uploads_bytes": "SYNTHMIX_UPLOADS_MOST_BYTES",
    "receiving_bytes": "SYNTHMIX_RECEIVING_MOST_BYTES",
    "import_files": "SYNTHMIX_IMPORT_MOST_FILES",
    "import_bytes": "SYNTHMIX_IMPORT_MOST_BYTES",
}
assert set(VARIABLES) == {field.name for field in fields(ImportBounds)}


def import_bounds(environment: Mapping[str, str] = os.environ) -> ImportBounds:
    """The bounds that the environment says, or shares of the disk of object storage, or else of temporary files.

    Raises:
        FailedPrecondition: A setting is not a whole number of 1 or more.
    """
    folder = environment.get("SYNTHMIX_OBJECT_STORE_FOLDER") or tempfile.gettempdir()
    disk_bytes = shutil.disk_usage(folder if Path(folder).exists() else tempfile.gettempdir()).total
    defaults = ImportBounds(
        upload_bytes=int(_UPLOAD_SHARE * disk_bytes),
        uploads_bytes=int(_TOGETHER_SHARE * disk_bytes),
        receiving_bytes=int(_TOGETHER_SHARE * disk_bytes),
        import_files=MOST_FILES,
        import_bytes=int(_TOGETHER_SHARE * disk_bytes),
    )
    return ImportBounds(
        **{name: whole_number(environment, VARIABLES[name], getattr(defaults, name)) for name in VARIABLES}
    )


def _beyond(field: str, what: str, limit: str, name: str, remedy: str) -> ResourceExhausted:
    variable = VARIABLES[name]
    description = f"{what} is more than the {limit} that {variable} allows; {remedy}, or raise {variable}"
    return ResourceExhausted(
        f"{field}: {description}",
        reason=REASON,
        violations=[FieldViolation(field, description)],
        metadata={"setting": variable, "limit": limit},
    )
