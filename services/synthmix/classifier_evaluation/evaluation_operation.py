"""One evaluation's operation: a task for each trial that is not in object storage yet, then the results over all."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from synthmix.classifier_evaluation import planning, results
from synthmix.classifier_evaluation.feature_networks import DEFAULT, FEATURE_NETWORK, FeatureNetwork
from synthmix.classifier_evaluation.mixtures import MixtureSpec, TrialSpec
from synthmix.classifier_evaluation.trial_requests import trial_name
from synthmix.image_data.mixture_kinds import KINDS
from synthmix.image_data.trial_files import TRIAL_RESULTS, StoredTrial, read_trial
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_manifest, write_manifest, write_payload
from synthmix.service_kit.environment import worker_settings
from synthmix.service_kit.operation_context import OperationContext, Tasks
from synthmix.service_kit.quantities import plural
from synthmix.service_kit.resource_names import EVALUATIONS, IMAGE_SETS, SPLITS, ArtifactName
from synthmix.service_kit.settings_messages import canonical

FIDELITY = "synthmix.classifier_evaluation.image_fidelity:measure"
TRY_NETWORK = "synthmix.classifier_evaluation.network_features:try_network"
TRIAL = "synthmix.classifier_evaluation.trials:run_trial"
# Between two looks for image sets that are to come.
LOOK_SECONDS = 1.0


def run(context: OperationContext) -> ArtifactName:
    """Returns the evaluation's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=EVALUATIONS)
    trials = planning.grid(request)
    if find_manifest(context.store, target) is None:
        network = FeatureNetwork(**names[FEATURE_NETWORK]) if FEATURE_NETWORK in names else DEFAULT
        grid = Grid(
            context, request, names["split"], trials, awaits=names.get("await_image_sets", False), network=network
        )
        fidelity = grid.run()
        context.update(message="comparing")
        _write_evaluation(context, target, request, names["split"], trials, fidelity, network)
    context.update(total=len(trials), done=len(trials), unit="trials")
    return target


class Grid:
    """The trials that are not in object storage yet, each from when its images are there; and the images' fidelity.

    Of those that can begin, all mixtures of one seed go before the next seed, so that early results can be compared.

    Args:
        awaits: Whether image sets may be missing, and are waited for.
        network: What the fidelity goes by.
    """

    def __init__(
        self,
        context: OperationContext,
        request: dict[str, Any],
        split: str,
        trials: list[TrialSpec],
        *,
        awaits: bool,
        network: FeatureNetwork = DEFAULT,
    ):
        self._context = context
        self._request = request
        self._split = split
        self._trials = trials
        self._awaits = awaits
        self._network = network
        self._settings = canonical(planning.settings_of(request).classifier)
        self._waiting = planning.missing_trials(context.store, request, trials)
        self._done = len(trials) - len(self._waiting)
        self._missing_sets: list[str] = list(request["image_sets"])
        self._network_task: int | None = None
        self._fidelity_task: int | None = None
        self._fidelity: dict[str, Any] | None = None

    def run(self) -> dict[str, Any] | None:
        """Returns the fidelity of the image sets when everything is done; None if there are none."""
        context = self._context
        context.note_reused(self._done)
        context.update(total=len(self._trials), done=self._done, unit="trials", message="training classifiers")
        looked_s = -math.inf
        with context.tasks() as tasks:
            if FEATURE_NETWORK in self._request:
                # What a front end cannot tell of it is told before images are waited for.
                made = f"a trial of the feature network {self._network}"
                [self._network_task] = tasks.add(TRY_NETWORK, [{"network": self._network}], makes=[made], ranks=[-2])
            while True:
                if self._missing_sets and time.monotonic() - looked_s > LOOK_SECONDS:
                    self._look_for_image_sets()
                    looked_s = time.monotonic()
                self._begin_what_may(tasks)
                context.waits = bool(self._missing_sets) and not tasks.left
                context.update(message=self._message(tasks))
                if not (tasks.left or self._missing_sets):
                    return self._fidelity
                for number, value in tasks.ended():
                    if number == self._fidelity_task:
                        self._fidelity = value
                    elif number != self._network_task:
                        self._done += 1
                        context.update(done=self._done)

    def _look_for_image_sets(self) -> None:
        store = self._context.store
        train_counts = planning.train_class_counts(
            read_manifest(store, ArtifactName.parse(self._split, field="split", collection=SPLITS))
        )
        for image_set in list(self._missing_sets):
            name = ArtifactName(IMAGE_SETS, image_set)
            manifest = find_manifest(store, name) if self._awaits else read_manifest(store, name)
            if manifest is not None:
                planning.check_image_set(store, self._split, self._request, self._trials, manifest, train_counts)
                self._missing_sets.remove(image_set)

    def _begin_what_may(self, tasks: Tasks) -> None:
        if self._request["image_sets"] and not self._missing_sets and self._fidelity_task is None:
            # Before all trials that wait, since it is short and others build on it. Features and reconstructions of the
            # split's images are the same whatever image sets they are beside.
            [self._fidelity_task] = tasks.add(
                FIDELITY,
                [{"split": self._split, "image_sets": self._request["image_sets"], "network": self._network}],
                makes=[f"features of {self._split}"],
                ranks=[-1],
            )
        ready = [trial for trial in self._waiting if self._is_ready(trial.mixture)]
        if not ready:
            return
        self._waiting = [trial for trial in self._waiting if not self._is_ready(trial.mixture)]
        gpus = worker_settings(self._context.service).gpus
        tasks.add(
            TRIAL,
            [{"split": self._split, "trial": trial, "settings": self._settings, "gpus": gpus} for trial in ready],
            makes=[str(trial_name(planning.request_of_trial(self._request, trial))) for trial in ready],
            ranks=[trial.seed for trial in ready],
        )

    def _is_ready(self, mixture: MixtureSpec) -> bool:
        if KINDS[mixture.kind].reconstructed:
            return self._fidelity is not None  # which makes the reconstructions
        return mixture.image_set not in self._missing_sets

    def _message(self, tasks: Tasks) -> str:
        missing = plural(len(self._missing_sets), "image set")
        if not self._missing_sets:
            return "training classifiers"
        return f"training classifiers, waiting for {missing}" if tasks.left else f"waiting for {missing}"


def _write_evaluation(
    context: OperationContext,
    target: ArtifactName,
    request: dict[str, Any],
    split: str,
    trials: list[TrialSpec],
    fidelity: dict[str, Any] | None,
    network: FeatureNetwork,
) -> None:
    store = context.store

    def read(trial: TrialSpec) -> StoredTrial:
        return read_trial(store, read_manifest(store, trial_name(planning.request_of_trial(request, trial))))

    with ThreadPoolExecutor(planning.STORE_CALLS_AT_ONCE) as threads:
        stored = dict(zip(trials, threads.map(read, trials), strict=True))
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
                **({FEATURE_NETWORK: asdict(network)} if FEATURE_NETWORK in request else {}),
            },
            seconds=context.worker_seconds,
            gpu_seconds=context.gpu_seconds,
        ),
    )
