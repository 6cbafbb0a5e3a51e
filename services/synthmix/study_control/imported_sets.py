"""Image sets that a study takes as they are: of images that another program made, and that were imported."""

from synthmix.api.studies.v1 import studies_pb2
from synthmix.image_data.generators import is_imported
from synthmix.image_data.selection_rules import rules_given
from synthmix.service_kit.artifacts import Manifest, find_manifest
from synthmix.service_kit.errors import NotFound, Problems, invalid_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName
from synthmix.study_control.specification import MOST_IMAGE_SETS, makes_its_own, needs_images, selections

FIELD = "image_sets"


def find_imported_sets(store: ObjectStore, spec: studies_pb2.StudySpec, problems: Problems) -> list[Manifest]:
    """The image sets that a specification names, as far as it may; collects what is wrong with the others.

    Whether the study's validation and test parts hold what their generators saw is for the evaluation to say.

    Args:
        spec: With its defaults.
    """
    if not spec.image_sets:
        return []
    with problems:
        if not needs_images(spec):
            raise invalid_field(
                FIELD,
                ", ".join(spec.image_sets),
                "are for mixtures, and these take no synthetic images",
                "give ratios above 0, or leave it out",
            )
    for place, settings in selections(spec) if not makes_its_own(spec) else ():
        with problems:
            raise invalid_field(
                f"selection[{place}]",
                ", ".join(rules_given(settings)),
                "chooses among images that the study makes, and beside image_sets it makes none",
                "leave it out, or give adapters or synthesis; choose among imported images before they are imported",
                reason="IMPORTED_CANDIDATES",
            )
    with problems:
        if len(spec.image_sets) > MOST_IMAGE_SETS:
            raise invalid_field(
                FIELD,
                len(spec.image_sets),
                "are too many",
                f"name at most {MOST_IMAGE_SETS}",
                reason="OUT_OF_RANGE",
            )
    found: dict[ArtifactName, Manifest] = {}
    for index, text in enumerate(spec.image_sets):
        field = f"{FIELD}[{index}]"
        with problems:
            name = ArtifactName.parse(text, field=field, collection=IMAGE_SETS)
            if name in found:
                raise invalid_field(field, text, "is there twice", "leave one out", reason="DUPLICATE_VALUE")
            found[name] = _imported(store, name, field=field)
    return list(found.values())


def _imported(store: ObjectStore, name: ArtifactName, *, field: str) -> Manifest:
    manifest = find_manifest(store, name)
    if manifest is None:
        raise NotFound(
            f"{field}: {name} does not exist; `synthmix images list` shows what does",
            reason="ARTIFACT_NOT_FOUND",
            metadata={"artifact": str(name)},
        )
    if not is_imported(manifest):
        raise invalid_field(
            field,
            str(name),
            "was made here, and not imported",
            "say under adapters and synthesis how it is made: what there is already is not made again",
            reason="NOT_IMPORTED",
        )
    return manifest
