"""Whether a base model can show a train part's images at all: measured once, and then known to every plan and report.

Whatever its autoencoder loses of real images no adapter can learn and no synthetic image can have.

autoencoder-checks/{id}/manifest.json  the figures (ReconstructionQuality) are its summary; there is no payload
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from synthmix.image_data.generators import adapter_settings
from synthmix.image_data.reconstruction_quality import ReconstructionQuality
from synthmix.service_kit.artifacts import Manifest, described, find_manifest, write_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import AUTOENCODER_CHECKS, ArtifactName
from synthmix.service_kit.seeds import derived_rng
from synthmix.service_kit.stored_records import known_fields

# Raised whenever the same images would give other figures.
RECIPE_VERSION = 1
# A few dozen tell 4 % of colour from 90 % and 9 dB from 24. They take half a second with the built-in model, and with
# Stable Diffusion 24 minutes of one core, where a training takes days.
IMAGES = 32
# An error of a tenth of white. Autoencoders that are in use are above it even with photographs (Stable Diffusion's at
# 23.4 dB: model card of stabilityai/sd-vae-ft-mse), and the built-in one is at 31 to 41 with grey microscopy.
LEAST_PSNR_DB = 20.0
# Above images of nothing but the mean colours: half of what pictures have besides is lost. The built-in model is 5 dB
# above with pale brightfield, 24 with fluorescence, and 1 with mere noise.
LEAST_GAIN_DB = 3.0
# The difference of colours that is just noticed (Mahy et al. 1994, Color Research & Application 19(2)).
LEAST_CHROMA_LOST = 2.3
# Autoencoders that know colour keep nine tenths and more, those that do not a twentieth.
LEAST_CHROMA_KEPT = 0.75
# Below it what is left is called nearly grey.
NEARLY_GREY = 0.25
# How Pillow's names of pixels begin that have no colour: 1, L, LA, I;16.
_GREY_MODES = ("1", "L", "I", "F")


@dataclass(frozen=True)
class CheckRequest:
    """What is measured, by content.

    Attributes:
        base_model: Digest of the base model.
        train_split: Digest of the train part.
        image_size: Side of the square images, in pixels.
    """

    base_model: str
    train_split: str
    image_size: int

    @property
    def name(self) -> ArtifactName:
        return ArtifactName(AUTOENCODER_CHECKS, digest_of({**asdict(self), "recipe_version": RECIPE_VERSION}))


def check_of(adapter: Manifest) -> CheckRequest:
    """What was, or would have been, measured before an adapter was trained."""
    return CheckRequest(
        adapter.inputs["base_model"], adapter.inputs["train_split"], adapter_settings(adapter).image_size
    )


def checked_rows(labels: Sequence[int]) -> list[int]:
    """The rows of a train part that are measured, ascending: IMAGES of the classes in turn, and one of each at least.

    Args:
        labels: The class of each image.
    """
    turns: list[tuple[int, int, int]] = []
    for label in np.unique(labels):
        rows = derived_rng(0, "autoencoder check", int(label)).permutation(np.flatnonzero(np.asarray(labels) == label))
        turns += [(turn, int(label), int(row)) for turn, row in enumerate(rows)]
    return sorted(row for _, _, row in sorted(turns)[: max(IMAGES, len(np.unique(labels)))])


def find_check(store: ObjectStore, request: CheckRequest) -> ReconstructionQuality | None:
    """What was measured; None if it was not."""
    manifest = find_manifest(store, request.name)
    if manifest is None:
        return None
    return described(manifest, lambda found: known_fields(ReconstructionQuality, found.summary))


def write_check(store: ObjectStore, request: CheckRequest, quality: ReconstructionQuality) -> None:
    inputs = {"base_model": request.base_model, "train_split": request.train_split}
    write_manifest(store, Manifest(request.name, inputs, asdict(request), RECIPE_VERSION, (), summary=asdict(quality)))


def check_warnings(quality: ReconstructionQuality, *, base_model: str, image_size: int) -> list[str]:
    """What the figures mean for a study and what to do, a sentence each; nothing if the images come back well.

    Args:
        base_model: As users write it.
        image_size: In pixels.
    """
    warnings = []
    measured = f"{quality.images} train images of {image_size} pixels"
    gain_db = quality.psnr_db - quality.mean_colour_psnr_db
    if quality.psnr_db < LEAST_PSNR_DB or gain_db < LEAST_GAIN_DB:
        warnings.append(
            f"the base model {base_model} cannot show these images: {measured} come back from its autoencoder with a "
            f"mean PSNR of {quality.psnr_db:.1f} dB, where images of nothing but each one's mean colour have "
            f"{quality.mean_colour_psnr_db:.1f} dB ({LEAST_PSNR_DB:g} dB, and {LEAST_GAIN_DB:g} dB above these, would "
            f"do){_kid_part(quality)}; what is lost there no adapter can learn and no synthetic image can have; use "
            "another base model, or the image_size that this one was made for"
        )
    lost = quality.chroma - quality.reconstructed_chroma
    if lost >= LEAST_CHROMA_LOST and quality.chroma_kept < LEAST_CHROMA_KEPT:
        look = "nearly grey" if quality.chroma_kept < NEARLY_GREY else "paler than real ones"
        warnings.append(
            f"the base model {base_model} cannot show the colour of these images: of {measured}, its autoencoder keeps "
            f"{100 * quality.chroma_kept:.0f} % of the chroma (mean CIELAB C*ab {quality.chroma:.1f} before and "
            f"{quality.reconstructed_chroma:.1f} after), so that all synthetic images are {look}, whatever an adapter "
            "learns; use a base model whose autoencoder knows colour, or import one of the images' channels as grey "
            "(--channel)"
        )
    return warnings


def _kid_part(quality: ReconstructionQuality) -> str:
    """What a sentence about what comes back says of the distance besides; nothing where it was not measured."""
    if quality.kid is None:
        return ""
    return (
        f", and with a kernel inception distance of {quality.kid:.2f} (95 % interval {quality.kid_low:.2f} to "
        f"{quality.kid_high:.2f}; chance gives up to {quality.kid_by_chance:.2f})"
    )


def stored_in_colour(modes: Sequence[str], channels: Sequence[int]) -> int:
    """How many images may have colour by the way they are stored, without decoding any.

    Args:
        modes: Pillow's name for the pixels of each file, such as L, RGB or I;16.
        channels: Those that the dataset takes of each file; none if it takes all.
    """
    if len(channels) == 1:
        return 0
    return sum(not mode.startswith(_GREY_MODES) for mode in modes)


def not_checked_yet(in_colour: int, images: int, *, base_model: str) -> list[str]:
    """What a plan says before it is known. Nothing of grey images, of which the doubt is small.

    Args:
        in_colour: Train images that are stored in colour, of all `images`.
    """
    if not in_colour:
        return []
    return [
        f"{in_colour} of {images} train images are stored in colour, and whether the base model {base_model} can show "
        "colour is not known yet: it is measured before the first adapter is trained, with a warning if it cannot"
    ]
