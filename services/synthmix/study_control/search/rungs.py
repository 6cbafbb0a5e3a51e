"""What one rung of one candidate is: three steps of the other services, as any study's are, and what came of them."""

import math
from dataclasses import replace

from google.protobuf.message import Message

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import described, read_manifest
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control import specification
from synthmix.study_control.search.decisions import Scores
from synthmix.study_control.search.planned import PlannedCandidate, at_rung
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.steps import Step


def plan_rung(services: StepServices, planned: PlannedCandidate, rung: int) -> tuple[Step, Step, Step]:
    """The adapter as it is at a rung, the images by which it is scored, and their score. Starts nothing.

    Raises:
        SynthMixError: A service refuses it.
    """
    images_seen = planned.candidate.images
    where = f"{planned.name} at {images_seen[rung]:,} images seen"
    adapter = _plan(services, planned.adapter, f"adapter {where}", at_rung(planned.adapter.request, images_seen, rung))
    made = {planned.adapter.target: adapter.target}
    images = _plan(services, planned.images, f"images of {where}", planned.images.with_inputs(made).request)
    made = {planned.images.target: images.target}
    score = _plan(services, planned.score, f"score of {where}", planned.score.with_inputs(made).request)
    return adapter, images, score


def _plan(services: StepServices, step: Step, display_name: str, request: Message) -> Step:
    with specification.study_terms(step.fields):
        plan = services.plan(step.service, request)
    return replace(step, display_name=display_name, request=request, plan=plan)


def read_scores(store: ObjectStore, score: str) -> Scores:
    """What images were scored.

    Raises:
        FailedPrecondition: A score is no number.
    """
    manifest = read_manifest(store, ArtifactName.parse(score, field="image_set_score"))
    message = described(
        manifest, lambda found: message_json.from_value(found.summary["score"], evaluations_pb2.ImageSetScore)
    )
    scores = Scores(message.class_consistency, message.kernel_inception_distance)
    if not (math.isfinite(scores.class_consistency) and math.isfinite(scores.kid)):
        raise FailedPrecondition(
            f"{score} has a class consistency of {scores.class_consistency} and a distance of {scores.kid}; look at "
            "the images that it is of: they may be of one colour",
            reason="SCORE_NOT_A_NUMBER",
            metadata={"artifact": score},
        )
    return scores
