"""One evaluation's operation: a task for each trial that is not in object storage yet, then the results over all."""

from typing import Any

from synthmix.classifier_evaluation import planning, results
from synthmix.classifier_evaluation.mixtures import TrialSpec
from synthmix.classifier_evaluation.trial_requests import trial_name
from synthmix.image_data.trial_files import TRIAL_RESULTS, read_trial
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_manifest, write_manifest, write_payload
from synthmix.service_kit.environment import worker_settings
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import EVALUATIONS, ArtifactName
from synthmix.service_kit.settings_messages import canonical


def run(context: OperationContext) -> ArtifactName:
    """Returns the evaluation's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=EVALUATIONS)
    trials = planning.grid(request)
    if find_manifest(context.store, target) is None:
        missing = [trial for trial in trials if not planning.trial_exists(context.store, request, trial)]
        done = len(trials) - len(missing)
        context.note_reused(done)
        context.update(total=len(trials), done=done, unit="trials", message="comparing images")
        # First, since it is short: what it cannot have, such as the base model, is told before hours of training.
        [fidelity] = (
            context.run_tasks(
                "synthmix.classifier_evaluation.image_fidelity:measure",
                [{"split": names["split"], "image_sets": request["image_sets"]}],
                # Features and reconstructions of the split's images are the same whatever image sets they are beside.
                makes=[f"features of {names['split']}"],
            )
            if request["image_sets"]
            else [None]
        )
        context.update(message="training classifiers")

        def count(index: int, value: Any) -> None:
            nonlocal done
            done += 1
            context.update(done=done)

        settings = canonical(planning.settings_of(request).classifier)
        context.run_tasks(
            "synthmix.classifier_evaluation.trials:run_trial",
            [
                {
                    "split": names["split"],
                    "trial": trial,
                    "settings": settings,
                    "gpus": worker_settings(context.service).gpus,
                }
                for trial in missing
            ],
            count,
            makes=[str(trial_name(planning.request_of_trial(request, trial))) for trial in missing],
        )
        context.update(message="comparing")
        _write_evaluation(context, target, request, names["split"], trials, fidelity)
    context.update(total=len(trials), done=len(trials), unit="trials")
    return target


def _write_evaluation(
    context: OperationContext,
    target: ArtifactName,
    request: dict[str, Any],
    split: str,
    trials: list[TrialSpec],
    fidelity: dict[str, Any] | None,
) -> None:
    store = context.store
    stored = {
        trial: read_trial(store, read_manifest(store, trial_name(planning.request_of_trial(request, trial))))
        for trial in trials
    }
    comparison = results.compare_trials(store, stored, planning.settings_of(request).claim)
    trial_results = results.trial_results(list(stored.values()))
    payloads = (write_payload(store, target, TRIAL_RESULTS, message_json.to_bytes(trial_results)),)
    write_manifest(
        store,
        Manifest(
            name=target,
            inputs={
                **{f"{part}_split": digest for part, digest in request["parts"].items()},
                **{f"image-set-{index}": image_set for index, image_set in enumerate(request["image_sets"])},
            },
            request={key: value for key, value in request.items() if key != "recipe_version"},
            recipe_version=request["recipe_version"],
            payloads=payloads,
            summary={
                "split": split,
                "trials": [trial.trial for trial in trial_results.trials],
                "comparison": message_json.to_value(comparison),
                "fidelity": fidelity,
            },
            seconds=context.worker_seconds,
            gpu_seconds=context.gpu_seconds,
        ),
    )
