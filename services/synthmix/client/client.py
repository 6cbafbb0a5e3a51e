"""The typed client of SynthMix's services.

    with Client.connect() as client:
        client.import_dataset(Path("images"), "six-phenotypes", group=GroupRule(pattern=r"(?P<group>P\\d+)"))
        operation = client.submit_study(spec)
        for event in client.watch_study("six-phenotypes"):
            print(event.progress.message)
        client.download_report("six-phenotypes", Path("report"))

Every failure is a SynthMixError. Long work is a google.longrunning.Operation: `wait` waits for it and
`result_of` unpacks what it made. Requests are content addressed: what was made before isn't made again.
"""

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeAlias

from google.longrunning import operations_pb2_grpc, operations_proto_pb2
from google.protobuf import empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from synthmix.api.adapters.v1 import adapters_pb2, adapters_pb2_grpc
from synthmix.api.artifacts.v1 import artifacts_pb2, artifacts_pb2_grpc
from synthmix.api.base_models.v1 import base_models_pb2, base_models_pb2_grpc
from synthmix.api.clusters.v1 import clusters_pb2, clusters_pb2_grpc
from synthmix.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from synthmix.api.evaluations.v1 import evaluations_pb2, evaluations_pb2_grpc
from synthmix.api.image_sets.v1 import image_sets_pb2, image_sets_pb2_grpc
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.api.studies.v1 import studies_pb2, studies_pb2_grpc
from synthmix.client import adapter_formats, image_exports, image_set_imports, split_images
from synthmix.client.adapter_formats import Export as Export
from synthmix.client.adapter_imports import read_adapter, write_upload
from synthmix.client.adapter_merges import Merge as Merge
from synthmix.client.adapter_merges import merge_adapters
from synthmix.client.downloads import Transfer as Transfer
from synthmix.client.downloads import download_payloads, reporter
from synthmix.client.endpoints import Addresses, Endpoints, find_endpoints
from synthmix.client.model_source import ModelSource, read_source
from synthmix.client.outputs import made_whole
from synthmix.client.packing import FIELD as SOURCE_FIELD
from synthmix.client.packing import pack
from synthmix.client.resource_collection import ResourceCollection
from synthmix.client.split_images import SplitImage as SplitImage
from synthmix.client.transport import Channels, Service
from synthmix.image_data.image_payloads import INDEX
from synthmix.image_data.sources.group_patterns import pattern_span
from synthmix.image_data.sources.manifests import LABEL_COLUMN, PATH_COLUMN, Columns, check_caption_columns
from synthmix.image_data.sources.source_listing import ListingRequest
from synthmix.service_kit import errors
from synthmix.service_kit import resource_names as names
from synthmix.service_kit.adapter_payloads import ADAPTER_FILES, SDXL_KIND, WITHOUT_ADAPTER, in_folder
from synthmix.service_kit.environment import (
    ADAPTER_TRAINING,
    CLASSIFIER_EVALUATION,
    IMAGE_SYNTHESIS,
    SERVICES,
    STUDY_CONTROL,
)
from synthmix.service_kit.operation_calls import Patience, state_word, wait_for
from synthmix.service_kit.operation_calls import failure_of as failure_of
from synthmix.service_kit.operation_calls import metadata_of as metadata_of
from synthmix.service_kit.operation_calls import result_of as result_of
from synthmix.service_kit.transport import UNARY_DEADLINE_S

Operation: TypeAlias = operations_proto_pb2.Operation
OperationMetadata: TypeAlias = progress_pb2.OperationMetadata
GroupRule: TypeAlias = datasets_pb2.GroupRule
PixelRule: TypeAlias = datasets_pb2.PixelRule

REPORT_PAYLOADS = ("report.html", "report.json", "results.csv")
CHUNK_BYTES = 1024 * 1024
# It reads every record, and lists every object.
SWEEP_DEADLINE_S = 600.0
# Of a download, before its next chunk: longer than object storage is waited for behind it.
LONGEST_SILENCE_S = 180.0


class Client:
    """A connection to a stack; made by `Client.connect`, closed by `close` or by leaving a `with` block.

    Attributes:
        adapters, image_sets, evaluations: What each service makes: `client.adapters.create(...)`.
        models: Base models in object storage, which `import_model` makes.
    """

    def __init__(self, channels: Channels):
        self._channels = channels
        self.adapters: ResourceCollection[adapters_pb2.Adapter] = ResourceCollection(
            channels.of(ADAPTER_TRAINING), "adapter", adapters_pb2, adapters_pb2_grpc
        )
        self.image_sets: ResourceCollection[image_sets_pb2.ImageSet] = ResourceCollection(
            channels.of(IMAGE_SYNTHESIS), "image_set", image_sets_pb2, image_sets_pb2_grpc
        )
        self.evaluations: ResourceCollection[evaluations_pb2.Evaluation] = ResourceCollection(
            channels.of(CLASSIFIER_EVALUATION), "evaluation", evaluations_pb2, evaluations_pb2_grpc
        )
        self._evaluation = channels.of(CLASSIFIER_EVALUATION)
        self._evaluations = evaluations_pb2_grpc.EvaluationServiceStub(self._evaluation.channel)
        self._training = channels.of(ADAPTER_TRAINING)
        self._models = base_models_pb2_grpc.BaseModelServiceStub(self._training.channel)
        self.models: ResourceCollection[base_models_pb2.BaseModel] = ResourceCollection(
            self._training, "base_model", base_models_pb2, base_models_pb2_grpc, names.MODELS
        )
        self._control = channels.of(STUDY_CONTROL)
        self._studies = studies_pb2_grpc.StudyServiceStub(self._control.channel)
        self._datasets = datasets_pb2_grpc.DatasetServiceStub(self._control.channel)
        self._artifacts = artifacts_pb2_grpc.ArtifactServiceStub(self._control.channel)
        self._clusters = clusters_pb2_grpc.ClusterServiceStub(self._control.channel)

    @classmethod
    def connect(
        cls,
        home: Path | None = None,
        *,
        addresses: Addresses | None = None,
        release: str | None = None,
        kube_context: str | None = None,
        token: str | None = None,
        tls_ca: Path | None = None,
    ) -> Self:
        """A client of the stack that `synthmix.client.endpoints.find_endpoints` decides for. Nothing is sent to it yet.

        A release (of the Helm chart) is looked up by the Kubernetes API, and forwarded until the client is closed.
        """
        found = find_endpoints(
            home, addresses=addresses, release=release, kube_context=kube_context, token=token, tls_ca=tls_ca
        )
        return cls(Channels(found))

    @property
    def endpoints(self) -> Endpoints:
        """How this client reaches the stack."""
        return self._channels.endpoints

    @property
    def unreachable(self) -> list[str]:
        """What lists left out: the service's version cannot read it."""
        return self._channels.unreachable

    def close(self) -> None:
        self._channels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Datasets and splits

    def import_dataset(
        self,
        path: Path,
        name: str,
        *,
        group: GroupRule,
        classes: Iterable[str] = (),
        simulated: bool = False,
        pixels: PixelRule | None = None,
        replace: bool = False,
        label_column: str = "",
        path_column: str = "",
        caption_columns: Iterable[str] = (),
        accept_layout: bool = False,
        progress: Callable[[Transfer], None] | None = None,
    ) -> datasets_pb2.Dataset:
        """Packs a folder or ZIP of labelled images, uploads it, and waits until it is a dataset.

        Args:
            path: A folder of class folders, a ZIP of one, or a CSV or Parquet manifest.
            name: What a study's `dataset:` may say. Each caller has names of their own.
            group: How an image's chip, well, plate or patient is known: GroupRule(pattern=...),
                GroupRule(column=...), or GroupRule(none=True) if the images are independent.
            classes: The classes to keep; none means all.
            simulated: States that the images are simulated; every report repeats it.
            pixels: What is taken of stacks, of images of several channels, and of 16-bit values:
                PixelRule(channels=[2, 1], plane=3, white_level=4095), all counted from 1.
            replace: Lets `name`, which another dataset holds, move to this one.
            label_column: The manifest's column of labels, if it isn't called "label".
            path_column: The manifest's column of paths, if it isn't called "path".
            caption_columns: The columns that are kept as captions, of the manifest or of metadata.csv,
                metadata.jsonl or metadata.parquet beside class folders; an adapter's caption_column is one of them.
            accept_layout: States that the top folders are the classes, though they look like something else, such
                as parts of a split.
            progress: Called as packing, uploading and importing go on.
        """
        names.check_display_name("name", name)
        captions = check_caption_columns(list(caption_columns))
        with tempfile.TemporaryDirectory(prefix="synthmix-import-") as scratch:
            packing = reporter(progress, "packing", "files")
            packed = pack(
                path,
                Path(scratch) / "dataset.zip",
                progress=packing,
                request=_listing_request(group, label_column, path_column, captions, accept_layout),
            )
            upload = self.upload(packed.path, progress=progress)
        request = datasets_pb2.CreateDatasetRequest(
            dataset=datasets_pb2.Dataset(
                display_name=name,
                group_rule=group,
                classes=list(classes),
                simulated=simulated,
                pixels=pixels,
                caption_columns=captions,
            ),
            upload=upload.name,
            replace_display_name=replace,
            left_out=packed.left_out,
            accept_layout=accept_layout,
            label_column=label_column,
            path_column=path_column,
        )
        operation = self._control.call(self._datasets.CreateDataset, request, Operation)
        done = self.wait(
            operation,
            progress=lambda metadata: reporter(progress, "importing", metadata.unit)(metadata.done, metadata.total),
        )
        return result_of(done, datasets_pb2.Dataset)

    def upload(self, path: Path, *, progress: Callable[[Transfer], None] | None = None) -> artifacts_pb2.Upload:
        """Stores a file under its sha256. Raises DataLoss if other bytes arrived than were sent."""
        digest = hashlib.sha256()
        report, total = reporter(progress, "uploading", "bytes"), path.stat().st_size

        def chunks() -> Iterator[artifacts_pb2.UploadFileRequest]:
            sent = 0
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    yield artifacts_pb2.UploadFileRequest(chunk=chunk, size_bytes=0 if sent else total)
                    sent += len(chunk)
                    report(sent, total)

        upload = self._control.call(self._artifacts.UploadFile, chunks(), artifacts_pb2.Upload, timeout_s=None)
        if upload.name != str(names.UploadName(digest.hexdigest())):
            raise errors.DataLoss(
                f"{path.name} arrived as {upload.name}, which is not what was sent; send it again",
                reason="UPLOAD_CORRUPT",
            )
        return upload

    def list_datasets(self) -> Iterator[datasets_pb2.Dataset]:
        return self._control.pages(self._datasets.ListDatasets, datasets_pb2.ListDatasetsRequest, "datasets")

    def get_dataset(self, name: str) -> datasets_pb2.Dataset:
        """By display name, or by datasets/{digest}."""
        request = datasets_pb2.GetDatasetRequest(name=names.qualified(names.DATASETS, name))
        return self._control.call(self._datasets.GetDataset, request, datasets_pb2.Dataset)

    def delete_dataset(
        self, name: str, *, cascade: bool = False, validate_only: bool = False
    ) -> artifacts_pb2.Deletion:
        """Deletes a dataset with its splits and its names, and returns what was deleted.

        Args:
            cascade: Deletes all that was made from it as well.
            validate_only: Deletes nothing, and returns what would be deleted.

        Raises:
            PermissionDenied: It belongs to others, or with `cascade` something that was made from it does (NOT_OWNER).
            FailedPrecondition: Something was made from it, and `cascade` is not given (STILL_REFERENCED); or an
                operation that has not ended uses it (OPERATION_RUNNING).
        """
        request = datasets_pb2.DeleteDatasetRequest(
            name=names.qualified(names.DATASETS, name), force=cascade, validate_only=validate_only
        )
        return self._control.call(self._datasets.DeleteDataset, request, artifacts_pb2.Deletion)

    def remove_images(
        self,
        name: str,
        *,
        images: Sequence[str] = (),
        groups: Sequence[str] = (),
        cascade: bool = False,
        now: bool = False,
        validate_only: bool = False,
        progress: Callable[[Transfer], None] | None = None,
    ) -> datasets_pb2.Dataset:
        """Removes images from a dataset, and returns the dataset of the others, which has its names.

        Args:
            images: By their paths in the dataset, or by sha256.
            groups: Groups whose images are all removed, such as a patient's.
            cascade: Deletes all that was made from the dataset as well.
            now: Keeps no files for the grace period: they are gone within two hours, and from caches a day later.
            validate_only: Changes nothing, and returns the dataset that there would be.
            progress: Called as the removal goes on.

        Raises:
            InvalidArgument: The dataset has no such image or group.
            PermissionDenied: Others asked for the dataset as well; the images go for all of them.
            FailedPrecondition: As `delete_dataset`; or fewer than two classes would be left (SINGLE_CLASS).
        """
        request = datasets_pb2.DeleteDatasetImagesRequest(
            name=names.qualified(names.DATASETS, name),
            images=images,
            groups=groups,
            force=cascade,
            skip_grace_period=now,
            validate_only=validate_only,
        )
        done = self.wait(
            self._control.call(self._datasets.DeleteDatasetImages, request, Operation),
            progress=lambda metadata: reporter(progress, "removing", metadata.unit)(metadata.done, metadata.total),
        )
        return result_of(done, datasets_pb2.Dataset)

    def sweep(self, *, validate_only: bool = False) -> list[artifacts_pb2.SweptObjects]:
        """Deletes from object storage what nothing needs and whose grace period has passed.

        Args:
            validate_only: Deletes nothing, and returns what would be deleted.
        """
        request = artifacts_pb2.SweepRequest(validate_only=validate_only)
        answer = self._control.call(
            self._artifacts.Sweep, request, artifacts_pb2.SweepResponse, timeout_s=SWEEP_DEADLINE_S
        )
        return list(answer.swept)

    def create_split(
        self, dataset: str, *, test: float | None = None, validation: float | None = None, seed: int | None = None
    ) -> datasets_pb2.Split:
        """Splits a dataset by group. The same request gives the same split: that of a study with the same numbers.

        Args:
            test: The share of images in the test part; as of a study if None, as are the others.
            validation: That in the validation part.
        """
        request = datasets_pb2.CreateSplitRequest(
            split=datasets_pb2.Split(
                dataset=names.qualified(names.DATASETS, dataset),
                settings=datasets_pb2.SplitSettings(test=test, validation=validation, seed=seed),
            )
        )
        return self._control.call(self._datasets.CreateSplit, request, datasets_pb2.Split)

    def get_split(self, name: str) -> datasets_pb2.Split:
        request = datasets_pb2.GetSplitRequest(name=names.qualified(names.SPLITS, name))
        return self._control.call(self._datasets.GetSplit, request, datasets_pb2.Split)

    def split_images(self, name: str) -> list[SplitImage]:
        """The images of a split, each with its part, in the order of the dataset.

        By it a generator can be trained elsewhere on the images of the train part alone.

        Args:
            name: splits/{digest}, or the digest alone.

        Raises:
            FailedPrecondition: pyarrow is not installed, which the extra `parquet` brings.
            NotFound: There is no such split.
            DataLoss: What arrived is not what the manifest says.
        """
        split_images.check_table()
        split = self.get_split(name)
        dataset = self.get_dataset(split.dataset)
        with tempfile.TemporaryDirectory(prefix="synthmix-split-") as folder:
            stored = Path(folder)
            download_payloads(self._read_payload, split.name, split.payloads, stored)
            download_payloads(self._read_payload, dataset.name, dataset.payloads, stored, only=[INDEX])
            return split_images.read_table(stored)

    # Base models

    def import_model(
        self,
        source: str,
        name: str = "",
        *,
        replace: bool = False,
        progress: Callable[[Transfer], None] | None = None,
    ) -> base_models_pb2.BaseModel:
        """Sends a base model's files, and waits until object storage has it. Files that are there are not sent again.

        Args:
            source: A folder in the diffusers layout, or owner/name@revision of the hub.
            name: What `base_model: models/{name}` may say. Each caller has names of their own.
            replace: Lets `name`, which another model holds, move to this one.
            progress: Called as reading, uploading and importing go on.

        Raises:
            InvalidArgument, Unimplemented: It is not a base model that can be used. No weights were sent.
            AlreadyExists: The name is that of another model (DISPLAY_NAME_TAKEN).
            ResourceExhausted: It is larger than the operator allows. Nothing was sent.
        """
        if name:
            names.check_display_name("name", name)
        found = read_source(source, progress=reporter(progress, "reading", "bytes"))
        request = _model_request(found, name, replace=replace)
        self._send_model(found, request, progress)
        done = self.wait(
            self._training.call(self._models.CreateBaseModel, request, Operation),
            progress=lambda metadata: reporter(progress, "importing", metadata.unit)(metadata.done, metadata.total),
        )
        return self.models.get(result_of(done, base_models_pb2.BaseModel).name)

    def _send_model(
        self,
        source: ModelSource,
        request: base_models_pb2.CreateBaseModelRequest,
        progress: Callable[[Transfer], None] | None,
    ) -> None:
        """Sends what is missing: the small files first, by which the service checks the model, and then the weights."""
        planned = base_models_pb2.CreateBaseModelRequest()
        planned.CopyFrom(request)
        planned.validate_only = True
        weights = {_upload_name(file.sha256): file.file for file in source.files if file.header}
        with tempfile.TemporaryDirectory(prefix="synthmix-import-") as scratch:
            small = {_upload_name(file.sha256): file.file for file in source.files} | _headers(source, Path(scratch))
            sent, total = 0, 0
            for files in ({name: path for name, path in small.items() if name not in weights}, weights):
                plan = result_of(
                    self._training.call(self._models.CreateBaseModel, planned, Operation), base_models_pb2.BaseModelPlan
                )
                missing = [name for name in plan.missing_uploads if name in files]
                total = total or sum((small | weights)[name].stat().st_size for name in plan.missing_uploads)
                # The largest first: what the service refuses for its size is refused before others are sent.
                for name in sorted(missing, key=lambda name: -files[name].stat().st_size):
                    if self.upload(files[name], progress=_shifted(progress, sent, total)).name != name:
                        raise errors.FailedPrecondition(
                            f"{files[name]} has changed since it was read; import the model again",
                            reason="FILE_CHANGED",
                        )
                    sent += files[name].stat().st_size

    # Studies

    def plan_study(self, spec: studies_pb2.StudySpec) -> studies_pb2.StudyPlan:
        """Checks a specification and says what it would do and cost. Starts nothing."""
        request = studies_pb2.CreateStudyRequest(spec=spec, validate_only=True)
        return result_of(self._control.call(self._studies.CreateStudy, request, Operation), studies_pb2.StudyPlan)

    def submit_study(self, spec: studies_pb2.StudySpec) -> Operation:
        """Starts a study; the operation's result is a Study, its metadata's target the study's name.

        The metadata's warnings say which other studies of the same name aren't finished, and how they differ.
        """
        request = studies_pb2.CreateStudyRequest(spec=spec)
        return self._control.call(self._studies.CreateStudy, request, Operation)

    def list_studies(self, spec_name: str = "", *, unfinished: bool = False) -> Iterator[studies_pb2.Study]:
        """Yields studies, the newest first.

        Args:
            spec_name: Only those that were submitted under this name.
            unfinished: Only those that have neither ended nor been asked to stop.
        """
        return self._control.pages(
            self._studies.ListStudies,
            studies_pb2.ListStudiesRequest,
            "studies",
            spec_name=spec_name,
            unfinished_only=unfinished,
        )

    def get_study(self, name: str) -> studies_pb2.Study:
        """By studies/{digest}, or by its specification's name: then the newest of that name."""
        request = studies_pb2.GetStudyRequest(name=names.qualified(names.STUDIES, name))
        return self._control.call(self._studies.GetStudy, request, studies_pb2.Study)

    def watch_study(self, name: str) -> Iterator[studies_pb2.WatchStudyResponse]:
        """Yields the study's state now and then each change, until the one that carries the finished study.

        A connection that breaks is taken up again where it broke; two minutes later it raises Unavailable.
        """
        request = studies_pb2.WatchStudyRequest(name=names.qualified(names.STUDIES, name))
        patience = Patience()
        while True:
            try:
                for response in self._control.stream(self._studies.WatchStudy, request):
                    patience.renew()
                    request.resume_marker = response.resume_marker or request.resume_marker
                    yield response
                    if response.HasField("study"):
                        return
            except errors.Unavailable as error:
                patience.spend(error)
            else:
                patience.spend(
                    errors.Unavailable(
                        f"study-control ends the stream of {request.name} before the study ends; watch it again",
                        reason="STREAM_ENDED",
                    )
                )

    def cancel_study(self, name: str) -> str:
        """Asks a study to stop and returns its operation's name. What is done stays.

        Args:
            name: studies/{digest}, or a specification's name: then the only study of that name that goes on, or the
                newest if none does.

        Raises:
            InvalidArgument: Several studies of that name go on; reason STUDY_NAME_AMBIGUOUS.
        """
        short = names.unqualified(names.STUDIES, name)
        going_on = []
        if not names.is_id(short):
            names.check_display_name("name", short)
            going_on = list(self.list_studies(short, unfinished=True))
        if len(going_on) > 1:
            raise _ambiguous(short, going_on)
        study = going_on[0] if going_on else self.get_study(name)
        self.cancel(study.operation)
        return str(study.operation)

    def cancel_studies(self, spec_name: str) -> list[str]:
        """Asks every study of this name that goes on to stop, and returns their operations' names, newest first."""
        names.check_display_name("spec_name", spec_name)
        self.get_study(spec_name)  # raises NotFound if there never was one
        operations = [study.operation for study in self.list_studies(spec_name, unfinished=True)]
        for operation in operations:
            self.cancel(operation)
        return operations

    def delete_study(self, name: str, *, cascade: bool = False, validate_only: bool = False) -> artifacts_pb2.Deletion:
        """Deletes a study with its report, and returns what was deleted. What it made stays.

        Args:
            cascade: Deletes what it made as well, as far as nothing else refers to it. Its dataset stays.
            validate_only: Deletes nothing, and returns what would be deleted.

        Raises:
            PermissionDenied: It belongs to others (NOT_OWNER).
            FailedPrecondition: It has not ended (OPERATION_RUNNING).
        """
        request = studies_pb2.DeleteStudyRequest(
            name=names.qualified(names.STUDIES, name), force=cascade, validate_only=validate_only
        )
        return self._control.call(self._studies.DeleteStudy, request, artifacts_pb2.Deletion)

    def download_report(self, name: str, folder: Path) -> list[Path]:
        """Writes report.html, report.json and results.csv. Raises FailedPrecondition if there is none yet."""
        study = self.get_study(name)
        if not study.payloads:
            ended = study.state in (progress_pb2.STATE_FAILED, progress_pb2.STATE_CANCELLED)
            remedy = "submit it again" if ended else f"follow it with `synthmix studies watch {study.name}`"
            raise errors.FailedPrecondition(
                f"{study.name} is {state_word(study.state)} and has no report; {remedy}", reason="REPORT_NOT_READY"
            )
        return download_payloads(self._read_payload, study.name, study.payloads, folder, only=REPORT_PAYLOADS)

    # Artifacts

    def download(
        self,
        name: str,
        folder: Path,
        *,
        only: Collection[str] | None = None,
        progress: Callable[[Transfer], None] | None = None,
    ) -> list[Path]:
        """Writes the payloads of a dataset, adapter, image set, evaluation or study below a folder.

        A file that is there already with the same sha256 is left alone: a broken download can be repeated.

        Args:
            only: The payloads to write; all if not given.

        Raises:
            DataLoss: What arrived isn't what the manifest says. Nothing is left of that file.
        """
        readers: dict[str, Callable[[str], Any]] = {
            names.DATASETS: self.get_dataset,
            names.ADAPTERS: self.adapters.get,
            names.IMAGE_SETS: self.image_sets.get,
            names.EVALUATIONS: self.evaluations.get,
            names.STUDIES: self.get_study,
        }
        collection = names.collection_of(name)
        if collection not in readers:
            raise errors.invalid_field(
                "name",
                name,
                "has nothing to download",
                f"use a name that begins with one of {', '.join(f'{item}/' for item in readers)}",
            )
        resource = readers[collection](name)
        return download_payloads(
            self._read_payload, resource.name, resource.payloads, folder, only=only, progress=progress
        )

    def score_images(
        self, name: str, *, split: str = "", progress: Callable[[OperationMetadata], None] | None = None
    ) -> evaluations_pb2.ImageSetScore:
        """Whether an image set shows its classes, and how near it comes to real images. Waits until it is known.

        It goes by the train and validation parts alone, so that what is chosen by it has not seen the test part.

        Args:
            name: image-sets/{digest}, or the digest alone.
            split: splits/{digest} by whose train and validation images it is judged; that of the image set's adapter,
                or whose part the generator of imported images saw, if it is not given.
            progress: Called with the operation's metadata about once a second.

        Raises:
            InvalidArgument: The images were imported, no split says what their generator saw, and none is given.
            NotFound: There is no such image set.
            FailedPrecondition: It was made by an adapter that was imported: no split has the images that it was trained
                on (TRAINING_DATA_UNKNOWN). Or its generator saw validation or test images (HELD_OUT_IMAGES_SEEN).
        """
        image_set = self.image_sets.get(name)
        split = split or self._split_of(image_set)
        request = evaluations_pb2.CreateImageSetScoreRequest(
            image_set_score=evaluations_pb2.ImageSetScore(
                split=names.qualified(names.SPLITS, split), image_set=image_set.name
            )
        )
        operation = self._evaluation.call(self._evaluations.CreateImageSetScore, request, Operation)
        return result_of(self.wait(operation, progress=progress), evaluations_pb2.ImageSetScore)

    def _split_of(self, image_set: image_sets_pb2.ImageSet) -> str:
        """The split whose train part its generator saw. Raises as score_images does."""
        if image_set.HasField("imported"):
            return image_set_imports.split_of(image_set)
        train_part = self.adapters.get(image_set.adapter).train_split
        if not train_part:
            raise errors.FailedPrecondition(
                f"{image_set.name} was made by {image_set.adapter}, which was imported: on which images it was trained "
                "is not known, and so not which would be new to it; score images of an adapter that was trained here",
                reason="TRAINING_DATA_UNKNOWN",
            )
        return str(names.PartName.parse_train(train_part, field="adapter.train_split").split)

    def import_images(
        self,
        path: Path,
        *,
        saw: Sequence[str] = (),
        saw_list: Path | None = None,
        saw_none: bool = False,
        origin: str = "",
        image_size: int = 0,
        accept_layout: bool = False,
        progress: Callable[[Transfer], None] | None = None,
    ) -> image_sets_pb2.ImageSet:
        """Uploads images that another program made, with what it learnt from, and waits until they are an image set.

        Evaluations refuse it if the generator saw an image of their validation or test part, so that what it saw is to
        be said in one way or another.

        Args:
            path: A folder of class folders, a ZIP of one, or a manifest of paths and labels. A metadata.jsonl beside
                the folders, as `export_images` writes it, says of each image its label, prompt, seed and sources.
            saw: What has images that the generator saw, all of each: splits/{digest}/parts/train, datasets/{digest} or
                a dataset's name.
            saw_list: A file with the sha256 of an image's file in each line, as sha256sum writes it, of images that
                it saw.
            saw_none: States that it saw no image of any data set that is used here.
            origin: Where the images are from, for lists and results; the path's name if not given.
            image_size: The side to which each image's centre square is resized; if it is not given, all have to be
                squares of one side.
            accept_layout: States that the top folders are the classes, though they look like something else.
            progress: Called as packing, uploading and importing go on.

        Raises:
            InvalidArgument: It is not said what the generator saw, or said in ways that contradict each other; or the
                images, their metadata or the list cannot be used.
            NotFound: What it saw does not exist.
        """
        named = [text if "/" in text else self.get_dataset(text).name for text in saw]
        seen = image_set_imports.statement(named, saw_list, saw_none)
        listing = ListingRequest(SOURCE_FIELD, accept_layout=accept_layout, made=True)
        with tempfile.TemporaryDirectory(prefix="synthmix-import-") as scratch:
            packing = reporter(progress, "packing", "files")
            packed = pack(path, Path(scratch) / "images.zip", progress=packing, request=listing)
            if saw_list is not None:
                listed = Path(scratch) / "seen.txt"
                image_set_imports.write_list(saw_list, listed)
                seen.list_upload = self.upload(listed).name
            upload = self.upload(packed.path, progress=progress)
        imported = image_sets_pb2.ImportedImages(
            upload=upload.name,
            origin=origin or image_set_imports.origin_of(path),
            seen=seen,
            accept_layout=accept_layout,
        )
        if image_size:
            imported.image_size = image_size
        done = self.wait(
            self.image_sets.create(image_sets_pb2.ImageSet(imported=imported)),
            progress=lambda metadata: reporter(progress, "importing", metadata.unit)(metadata.done, metadata.total),
        )
        return result_of(done, image_sets_pb2.ImageSet)

    def export_images(
        self, name: str, format_name: str, out: Path, *, progress: Callable[[Transfer], None] | None = None
    ) -> int:
        """Writes the images of an image set in a form that other programs read, and returns how many they are.

        Args:
            name: image-sets/{digest}, or the digest alone.
            format_name: imagefolder or webdataset, which are folders, or zip, which is one file.
            out: Where; its folder is made.
            progress: Called as the image set's files are downloaded.

        Raises:
            InvalidArgument: There is no such format, or `out` is not named as it is.
            AlreadyExists: Something is at `out` (OUT_EXISTS).
            FailedPrecondition: pyarrow is not installed, which the extra `parquet` brings.
            NotFound: There is no such image set.
            DataLoss: What arrived is not what the manifest says. Nothing is left at `out`.
            ResourceExhausted: The disk has no room for it. Nothing is left at `out`.
        """
        image_exports.check_export(format_name, out)
        image_set = self.image_sets.get(name)
        with made_whole(out) as made:
            stored = made.parent / "stored"
            download_payloads(self._read_payload, image_set.name, image_set.payloads, stored, progress=progress)
            return image_exports.write_images(format_name, stored, made)

    def export_adapter(
        self,
        name: str,
        format_name: str,
        out: Path,
        *,
        label: str = "",
        image: str = "",
        progress: Callable[[Transfer], None] | None = None,
    ) -> Export:
        """Writes an adapter in a form that other tools read.

        Args:
            name: adapters/{digest}, or the digest alone.
            format_name: diffusers or kohya, which are one file, or peft, which is a folder.
            out: Where; its folder is made. A file's name ends in .safetensors.
            label: The class whose adapter is meant, of one that was trained `per: class`.
            image: The train image whose adapter is meant, of one that was trained `per: image`: its path in the
                dataset, the path's last part, or the beginning of its sha256.
            progress: Called as the adapter's files are downloaded.

        Returns:
            The files, and sentences on what some readers leave out of them.

        Raises:
            InvalidArgument: There is no such format, it has no form for the adapter's method (FORMAT_CANNOT), `out` is
                not named as it is, or the class or image is missing, unknown, or not a choice.
            AlreadyExists: Something is at `out` (OUT_EXISTS).
            NotFound: There is no such adapter.
            DataLoss: What arrived is not what the manifest says, or is not an adapter. Nothing is left at `out`.
        """
        errors.check_choice("format", format_name, adapter_formats.FORMATS)
        adapter = self.adapters.get(name)
        adapter_formats.check_export(format_name, adapter.settings, out)
        folder = adapter_formats.folder_of(adapter, label, image)
        with made_whole(out) as made:
            stored = self._fetch_adapter(adapter, folder, made.parent / "stored", progress)
            try:
                export = adapter_formats.write_adapter(
                    format_name,
                    stored,
                    made,
                    adapter.settings.base_model,
                    is_sdxl=adapter.base_model_kind == SDXL_KIND,
                    original_px=adapter.original_size,
                )
            except ValueError as error:
                raise _corrupt_adapter(adapter, error) from error
        return Export(tuple(out / path.relative_to(made) for path in export.files), export.notes)

    def import_adapter(
        self,
        path: Path,
        base_model: str,
        *,
        classes: Sequence[str],
        prompt: str = "",
        image_size: int = 0,
        grey: bool = False,
        progress: Callable[[Transfer], None] | None = None,
    ) -> adapters_pb2.Adapter:
        """Uploads an adapter that another program trained, and waits until it is one here.

        Args:
            path: A safetensors file as of kohya's sd-scripts, LyCORIS or diffusers, or a folder in PEFT's layout.
            base_model: What it was trained on: builtin, models/{name}, a folder that workers can read, or
                owner/name@revision.
            classes: What {label} in prompts may be: the labels of images that are made with it.
            prompt: With {label} where the class is named; the default of adapters that are trained here if not given.
            image_size: Side of the images that are made with it, in pixels; the base model's own if not given.
            grey: Whether these images are grey.
            progress: Called as uploading and importing go on.

        Raises:
            InvalidArgument: The file is not an adapter, is of a kind that is not taken, does not fit the base model, or
                changes nothing of it.
        """
        stored = read_adapter(path)
        with tempfile.TemporaryDirectory(prefix="synthmix-import-") as scratch:
            packed = Path(scratch) / "adapter.safetensors"
            write_upload(stored, packed)
            upload = self.upload(packed, progress=progress)
        settings = adapters_pb2.AdapterSettings(base_model=base_model)
        if prompt:
            settings.prompt = prompt
        if image_size:
            settings.image_size = image_size
        done = self.wait(
            self.adapters.create(
                adapters_pb2.Adapter(
                    settings=settings,
                    imported=adapters_pb2.ImportedAdapter(upload=upload.name, classes=classes, grey=grey),
                )
            ),
            progress=lambda metadata: reporter(progress, "importing", metadata.unit)(metadata.done, metadata.total),
        )
        return result_of(done, adapters_pb2.Adapter)

    def merge_adapters(
        self,
        adapters: Sequence[str | Path],
        weights: Sequence[float],
        out: Path,
        *,
        rank: int | None = None,
        format_name: str = "diffusers",
        progress: Callable[[Transfer], None] | None = None,
    ) -> Merge:
        """Writes the LoRA whose update is the weighted sum of those of several adapters of a base model.

        Args:
            adapters: Names as adapters/{digest}, or paths of what `import_adapter` takes.
            weights: One for each.
            out: Where; a file's name ends in .safetensors.
            rank: The largest of a layer, to which the sum is cut by its singular values. If it is not given, ranks
                add up, and nothing is lost; that takes adapters of LoRA's kind.
            format_name: diffusers or kohya, which are one file, or peft, which is a folder.
            progress: Called as adapters are downloaded.

        Raises:
            InvalidArgument: An adapter cannot be read, is of a kind that does not add up (dora, oft, boft), has another
                adapter for each class or image, or is of another base model than the first (MERGE_CANNOT).
            AlreadyExists: Something is at `out` (OUT_EXISTS).
            FailedPrecondition: numpy is not installed.
        """
        return merge_adapters(
            adapters,
            weights,
            out,
            rank=rank,
            format_name=format_name,
            fetch=lambda name, folder: self._stored_adapter(name, folder, progress),
        )

    def _stored_adapter(
        self, name: str, folder: Path, progress: Callable[[Transfer], None] | None
    ) -> adapter_formats.Stored:
        """An adapter of the service, fetched into a folder."""
        adapter = self.adapters.get(name)
        if each := adapter_formats.has_several(adapter):
            raise errors.invalid_field(
                "adapters",
                name,
                f"has an adapter for each {each}",
                f"write those that are meant with `synthmix adapters export --{each}`, and merge the files",
            )
        if adapter.settings.method in WITHOUT_ADAPTER:
            raise errors.invalid_field(
                "adapters",
                name,
                f"is of the method {adapter.settings.method}, and is no adapter",
                "merge adapters of lora, loha or lokr",
                reason="MERGE_CANNOT",
            )
        try:
            return adapter_formats.read_stored(
                self._fetch_adapter(adapter, "", folder, progress),
                adapter.settings.base_model,
                is_sdxl=adapter.base_model_kind == SDXL_KIND,
            )
        except ValueError as error:
            raise _corrupt_adapter(adapter, error) from error

    def _fetch_adapter(
        self,
        adapter: adapters_pb2.Adapter,
        part: str,
        folder: Path,
        progress: Callable[[Transfer], None] | None,
    ) -> Path:
        """Downloads the files of one of an artifact's adapters, and returns the folder that has them."""
        names = {in_folder(part, file) for file in ADAPTER_FILES}
        only = [item.name for item in adapter.payloads if item.name in names]
        download_payloads(self._read_payload, adapter.name, adapter.payloads, folder, only=only, progress=progress)
        return folder / part

    def _read_payload(self, artifact: str, payload: str) -> Iterator[bytes]:
        request = artifacts_pb2.DownloadPayloadRequest(artifact=artifact, payload=payload)
        for response in self._control.stream(self._artifacts.DownloadPayload, request, silence_s=LONGEST_SILENCE_S):
            yield response.chunk

    # Operations

    def list_operations(self, service: str) -> Iterator[Operation]:
        """The operations of one service, the newest first; synthmix.service_kit.environment.SERVICES names them."""
        errors.check_choice("service", service, SERVICES)
        where, stub = self._operations(service)
        request = operations_proto_pb2.ListOperationsRequest
        return where.pages(stub.ListOperations, request, "operations", name=names.operations_of(service))

    def get_operation(self, name: str) -> Operation:
        where, stub = self._operations(_service_of(name))
        return where.call(stub.GetOperation, operations_proto_pb2.GetOperationRequest(name=name), Operation)

    def cancel(self, name: str) -> None:
        """Asks an operation to stop. What it has done stays; the same request goes on from there.

        One that others asked for as well goes on for them. Raises PermissionDenied if it is others' alone (NOT_OWNER).
        """
        where, stub = self._operations(_service_of(name))
        where.call(stub.CancelOperation, operations_proto_pb2.CancelOperationRequest(name=name), empty_pb2.Empty)

    def wait(
        self,
        operation: Operation | str,
        *,
        timeout_s: float | None = None,
        progress: Callable[[OperationMetadata], None] | None = None,
    ) -> Operation:
        """Returns the operation once it is done, whether or not it succeeded; `result_of` says which.

        Args:
            timeout_s: Returns the unfinished operation after this time; waits for ever if not given.
            progress: Called with the operation's metadata about once a second.

        Raises:
            Unavailable: The service was lost for more than two minutes.
        """
        current = self.get_operation(operation) if isinstance(operation, str) else operation
        if current.done:  # a plan's operation has no name, and no service to ask
            if progress is not None:
                progress(metadata_of(current))
            return current
        where, stub = self._operations(_service_of(current.name))

        def ask(request: operations_proto_pb2.WaitOperationRequest, poll_s: float) -> Operation:
            return where.call(stub.WaitOperation, request, Operation, timeout_s=poll_s + UNARY_DEADLINE_S)

        return wait_for(current, ask, timeout_s=timeout_s, progress=progress)

    def _operations(self, service: str) -> tuple[Service, Any]:
        where = self._channels.of(service)
        return where, operations_pb2_grpc.OperationsStub(where.channel)

    # The cluster

    def get_cluster(self) -> clusters_pb2.Cluster:
        """GPU nodes and worker groups. Raises FailedPrecondition with reason NO_CLUSTER on a single machine."""
        return self._control.call(self._clusters.GetCluster, clusters_pb2.GetClusterRequest(), clusters_pb2.Cluster)

    def scale_worker_group(
        self,
        worker_group: str,
        *,
        min_workers: int | None = None,
        max_workers: int | None = None,
        validate_only: bool = False,
    ) -> clusters_pb2.WorkerGroup:
        """Changes how many workers a group may have, until the next `helm upgrade`. Returns the group as it is then.

        Args:
            min_workers: Stays as it is if not given; so does max_workers.
            validate_only: Changes nothing, and returns what the group would be.
        """
        request = clusters_pb2.ScaleWorkerGroupRequest(
            worker_group=worker_group, min_workers=min_workers, max_workers=max_workers, validate_only=validate_only
        )
        return self._control.call(self._clusters.ScaleWorkerGroup, request, clusters_pb2.WorkerGroup)

    # Health

    def check_health(self, service: str, *, timeout_s: float = UNARY_DEADLINE_S) -> None:
        """Raises Unavailable unless the service says that it serves."""
        where, request = self._channels.of(service), health_pb2.HealthCheckRequest()
        stub = health_pb2_grpc.HealthStub(where.channel)
        answer = where.call(stub.Check, request, health_pb2.HealthCheckResponse, timeout_s=timeout_s)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise errors.Unavailable(f"{service} is starting or stopping; try again in a moment", reason="NOT_SERVING")


def _model_request(source: ModelSource, name: str, *, replace: bool) -> base_models_pb2.CreateBaseModelRequest:
    return base_models_pb2.CreateBaseModelRequest(
        base_model=base_models_pb2.BaseModel(
            display_name=name,
            source=source.shown,
            files=[
                base_models_pb2.BaseModelFile(
                    path=file.path,
                    sha256=file.sha256,
                    size_bytes=file.size_bytes,
                    header_upload=_upload_name(hashlib.sha256(file.header).hexdigest()) if file.header else "",
                )
                for file in source.files
            ],
        ),
        replace_display_name=replace,
    )


def _headers(source: ModelSource, folder: Path) -> dict[str, Path]:
    """The headers of a model's weights as files, by the uploads that they are to be."""
    found = {}
    for number, file in enumerate(source.files):
        if file.header:
            path = folder / str(number)
            path.write_bytes(file.header)
            found[_upload_name(hashlib.sha256(file.header).hexdigest())] = path
    return found


def _upload_name(sha256: str) -> str:
    return str(names.UploadName(sha256))


def _shifted(progress: Callable[[Transfer], None] | None, done: int, total: int) -> Callable[[Transfer], None] | None:
    """Reports the transfer of one file as a part of that of several."""
    if progress is None:
        return None
    return lambda transfer: progress(replace(transfer, done=done + transfer.done, total=total))


def _corrupt_adapter(adapter: adapters_pb2.Adapter, error: ValueError) -> errors.DataLoss:
    remedy = "import it again" if adapter.HasField("imported") else "train it again"
    return errors.DataLoss(
        f"{adapter.name} cannot be exported: {error}; delete it and {remedy}",
        reason="PAYLOAD_CORRUPT",
        metadata={"artifact": adapter.name},
    )


def _ambiguous(spec_name: str, studies: Sequence[studies_pb2.Study]) -> errors.InvalidArgument:
    lines = [
        f"{study.name}, submitted {study.create_time.ToDatetime():%Y-%m-%d %H:%M} UTC, {state_word(study.state)}"
        for study in studies
    ]
    return errors.InvalidArgument(
        f"name: {len(lines)} studies named {spec_name!r} are not finished; say which one by its studies/{{digest}}, or "
        f"stop them all with `synthmix studies cancel {spec_name} --all`{errors.listing(lines)}",
        reason="STUDY_NAME_AMBIGUOUS",
        violations=[errors.FieldViolation("name", line) for line in lines[: errors.MOST_LISTED]],
    )


def _service_of(operation: str) -> str:
    service = names.OperationName.parse(operation).service
    errors.check_choice("name", service, SERVICES)
    return service


def _listing_request(
    group: GroupRule, label_column: str, path_column: str, captions: Sequence[str], accept_layout: bool
) -> ListingRequest:
    """How the source of an import is read. Raises InvalidArgument if the group pattern can't be one."""
    rule = group.WhichOneof("rule")
    return ListingRequest(
        field=SOURCE_FIELD,
        columns=Columns(
            path_column.strip() or PATH_COLUMN,
            label_column.strip() or LABEL_COLUMN,
            group.column if rule == "column" else None,
            tuple(captions),
        ),
        group_span=pattern_span(group.pattern) if rule == "pattern" else None,
        accept_layout=accept_layout,
    )
