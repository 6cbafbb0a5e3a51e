"""What a report says, as plain values: everything the pages need and nothing that has to be looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from synthmix.api.evaluations.v1 import evaluations_pb2

if TYPE_CHECKING:  # numpy comes with it, and pages need none
    from synthmix.image_data.reconstruction_quality import ReconstructionQuality


@dataclass(frozen=True)
class Study:
    """Whose report it is."""

    name: str
    # studies/{digest}
    id: str
    # With a time zone.
    created_at: datetime
    # The specification as its user would write it, defaults filled in.
    spec_yaml: str


@dataclass(frozen=True)
class SplitPart:
    """Real images of one part of the split."""

    name: Literal["train", "validation", "test"]
    groups: int
    # Images of each class.
    images: Mapping[str, int]


@dataclass(frozen=True)
class Dataset:
    """The real images."""

    display_name: str
    digest: str
    # Made by a simulator: said in a banner.
    simulated: bool
    # How groups are known, such as 'column "chip"'; None if the user stated that there are none.
    group_rule: str | None
    # train, validation, test
    parts: tuple[SplitPart, ...]
    # Of the import, such as near-duplicates.
    warnings: tuple[str, ...]
    # Files of the source that are not images of the dataset: a sentence for each folder and reason.
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A digest that the results rest on."""

    # dataset, split, base model, adapter, image set, evaluation, ...
    kind: str
    name: str
    digest: str


@dataclass(frozen=True)
class LossPoint:
    """A point of a training's loss curve."""

    images_seen: int
    loss: float


@dataclass(frozen=True)
class AutoencoderCheck:
    """What a base model's autoencoder left of train images, before any adapter was trained on them."""

    base_model: str
    # Side of the images, in pixels.
    image_size: int
    # None if an earlier version trained the adapters, without measuring it.
    quality: ReconstructionQuality | None
    # What that means, and what to do: said in a banner.
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Previews:
    """Pictures of one class that an adapter made on its way, of the same noise each time."""

    images_seen: int
    pngs: tuple[bytes, ...]


@dataclass(frozen=True)
class Adapter:
    """One adapter's training."""

    name: str
    # Every setting in words.
    settings: Mapping[str, str]
    parameter_count: int
    final_loss: float
    # In order of images seen; may be empty.
    loss_curve: tuple[LossPoint, ...]
    seconds: float
    gpu_seconds: float
    # The loss on held-out train images, in order of images seen; empty if none are held out.
    held_out: tuple[LossPoint, ...] = ()
    # After how many images seen the weights are the training's that were kept; 0 where that is not known.
    images_seen: int = 0
    # By class, in order of images seen; empty if none were asked for.
    previews: Mapping[str, tuple[Previews, ...]] = field(default_factory=dict)
    # How many train images have an adapter each; 0 if one is for all images, or for all of a class.
    of_images: int = 0


@dataclass(frozen=True)
class Selection:
    """By what images were chosen, and what became of those that they were chosen from."""

    # Every setting in words.
    settings: Mapping[str, str]
    # Images that were chosen among.
    candidates: int
    # How many each rule left out; those that passed and were not needed are "not needed".
    left_out: Mapping[str, int]
    # Images of each class that are missing to what was wanted; classes of which enough passed are absent.
    missing: Mapping[str, int]


@dataclass(frozen=True)
class ImageSet:
    """One set of synthetic images."""

    name: str
    # The adapter's name; empty of images that were imported.
    adapter: str
    # Images of each class.
    images: Mapping[str, int]
    # Every setting in words; of images that were imported, what is known of them.
    settings: Mapping[str, str]
    # What making them took; 0 of images that were imported.
    seconds: float
    gpu_seconds: float
    # None if the images are as they were made.
    selection: Selection | None = None


@dataclass(frozen=True)
class SyntheticExample:
    """A synthetic image beside the real train image that is nearest to it, of those that it is no child of."""

    png: bytes
    nearest_real_png: bytes
    nearest_real_distance: float
    # The train images that it is a child of, of an image set that names them.
    source_pngs: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Examples of one class from one image set."""

    # The image set's name.
    image_set: str
    class_name: str
    examples: tuple[SyntheticExample, ...]


@dataclass(frozen=True)
class Rejected:
    """A synthetic image that a selection left out."""

    png: bytes
    # The rule in words, such as "class consistency".
    rule: str
    # What the rule went by; None where there is no number.
    score: float | None


@dataclass(frozen=True)
class RejectedGallery:
    """Examples of one class that a selection left out."""

    # The name of the image set that was kept.
    image_set: str
    class_name: str
    examples: tuple[Rejected, ...]


@dataclass(frozen=True)
class NearPair:
    """A synthetic image and the train image that it is nearest to, of those that it is no child of."""

    # The image set's name.
    image_set: str
    class_name: str
    png: bytes
    real_png: bytes
    # Of their features.
    distance: float


LeakageStatus = Literal["broken", "unknown", "held", "by construction"]
"""In the order in which a report lists them."""


@dataclass(frozen=True)
class LeakageCheck:
    """One leakage rule, and what object storage shows of it."""

    statement: str
    # Numbers, such as "0 of 12 groups are in two parts".
    evidence: str
    # broken: no verdict is given. unknown: nothing is stored that would show it. by construction: the types allow
    # nothing else.
    status: LeakageStatus


@dataclass(frozen=True)
class StepCost:
    """What one kind of step cost. Reused tasks were done before, and cost nothing here."""

    name: str
    tasks: int
    reused_tasks: int
    seconds: float
    gpu_seconds: float
    # None if it was not predicted.
    predicted_seconds: float | None


@dataclass(frozen=True)
class SearchRung:
    """A candidate of a search, as it was trained and scored at one rung."""

    candidate: str
    # Counted from 1.
    rung: int
    images_seen: int
    outcome: Literal["scored", "failed", "cancelled"]
    # None unless it was scored.
    class_consistency: float | None
    kernel_inception_distance: float | None
    # Worker time, also of what was there already.
    seconds: float
    # What it failed with; "" if it did not.
    reason: str
    # Its adapter, images and score, as far as they were made; and those that were there already.
    made: tuple[str, ...]
    found: tuple[str, ...]


@dataclass(frozen=True)
class Search:
    """How a study's adapters were searched."""

    # What was chosen and why.
    sentence: str
    # The names of those that the study went on with, the best first.
    chosen: tuple[str, ...]
    # What candidates were compared by: class_consistency or kid.
    score: str
    candidates: int
    tried: int
    budget_seconds: float
    spent_seconds: float
    # What class consistency comes to by chance, and with the validation images.
    chance_level: float
    real_class_consistency: float
    # Those of the best candidate first, and of each in order of images seen.
    rungs: tuple[SearchRung, ...]
    # All that was decided and what came of it, in that order: rungs that were started and that ended, and the end.
    history: tuple[Mapping[str, object], ...]


@dataclass(frozen=True)
class Preset:
    """A strategy of the field that the study follows."""

    name: str
    # paper or unidiffda.
    variant: str
    title: str
    # Its paper in a line.
    citation: str
    # Those of the specification that it filled, such as synthesis[0].
    sections: tuple[str, ...]
    # Names of the image sets that its synthesis made.
    image_sets: tuple[str, ...]
    # In sentences: what the study sets otherwise, what differs from what it follows, and what is not said there.
    changes: tuple[str, ...]
    deviations: tuple[str, ...]
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class Provenance:
    """What the numbers were made from and with."""

    artifacts: tuple[Artifact, ...]
    # Recipe to version, such as "adapter training": "1".
    recipes: Mapping[str, str]
    # Package to version.
    software: Mapping[str, str]


@dataclass(frozen=True)
class ReportData:
    """Everything in a report."""

    study: Study
    dataset: Dataset
    class_names: tuple[str, ...]
    base_model: str
    # Of each base model and size of images that adapters were trained with.
    autoencoder_checks: tuple[AutoencoderCheck, ...]
    adapters: tuple[Adapter, ...]
    image_sets: tuple[ImageSet, ...]
    # Of the image sets; None without any.
    fidelity: evaluations_pb2.Fidelity | None
    galleries: tuple[Gallery, ...]
    # Real train images of each class as PNG, beside the galleries; classes may be absent.
    real_examples: Mapping[str, tuple[bytes, ...]]
    # What nearest_real_distance measures, such as "Euclidean distance of grey pixels".
    nearest_distance: str
    # Setting to value, such as "architecture": "tf_efficientnet_lite0".
    classifier: Mapping[str, str]
    comparison: evaluations_pb2.Comparison
    # Of the trials' results.
    metrics: tuple[evaluations_pb2.Metric, ...]
    trials: tuple[evaluations_pb2.TrialResult, ...]
    leakage: tuple[LeakageCheck, ...]
    costs: tuple[StepCost, ...]
    provenance: Provenance
    # Of the study, beside the dataset's and the comparison's own.
    warnings: tuple[str, ...]
    # None if all adapters were trained.
    search: Search | None = None
    # Empty without selections.
    rejected: tuple[RejectedGallery, ...] = ()
    # Of each image set the images that come the nearest to a train image; none in results of earlier versions.
    near_pairs: tuple[NearPair, ...] = ()
    # Those that the study names.
    presets: tuple[Preset, ...] = ()

    @property
    def broken_rules(self) -> tuple[LeakageCheck, ...]:
        return tuple(rule for rule in self.leakage if rule.status == "broken")

    @property
    def leakage_in_order(self) -> tuple[LeakageCheck, ...]:
        """What needs a reader's eye first."""
        return tuple(sorted(self.leakage, key=lambda rule: get_args(LeakageStatus).index(rule.status)))

    @cached_property
    def reported(self) -> evaluations_pb2.Comparison:
        """The comparison, without its verdict if a leakage rule is broken."""
        reported = evaluations_pb2.Comparison()
        reported.CopyFrom(self.comparison)
        if self.broken_rules:
            reported.ClearField("verdict")
        return reported

    @property
    def verdict(self) -> evaluations_pb2.Verdict | None:
        """None if there were no candidates, or a leakage rule is broken."""
        return self.reported.verdict if self.reported.HasField("verdict") else None

    @property
    def verdict_sentence(self) -> str:
        """The verdict, or why there is none."""
        if self.verdict:
            return str(self.verdict.sentence)
        if self.broken_rules:
            broken = "; ".join(f"{rule.statement} ({rule.evidence})" for rule in self.broken_rules)
            return f"No verdict: a leakage rule is broken: {broken}."
        return "No verdict: the study has no mixture of real and synthetic images to choose among."
