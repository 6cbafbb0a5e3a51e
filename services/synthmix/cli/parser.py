"""The command line's grammar. Nothing but argparse is imported here, so that --help is fast.

A command says its handler as "module:function" below synthmix.cli; synthmix.cli.dispatch imports it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EPILOG = """\
exit codes:
  0    done
  1    the operation or study failed, or something else went wrong
  2    the command line or an input is invalid
  3    what was named does not exist
  4    the services cannot be reached, or refuse the caller
  5    the operation or study was cancelled
  130  interrupted; what runs in the services continues

environment:
  SYNTHMIX_HOME        where a stack on this machine keeps everything (default: ~/.synthmix)
  SYNTHMIX_ADDRESS     as --address
  SYNTHMIX_RELEASE     as --release
  SYNTHMIX_TOKEN       as --token, but invisible to other users of this machine
  SYNTHMIX_TOKEN_FILE  a file that holds it, instead
  SYNTHMIX_TLS_CA      as --tls-ca; for a release only if its own authority cannot be read in the cluster
  SYNTHMIX_DEBUG       1 shows the stack trace of an error

first steps:
  synthmix doctor
  synthmix demo
"""
MOST_COUNTED = 2**31 - 1
STUDY = "the name in its file, which means the newest study of that name, or studies/{digest}"
DATASET = "a dataset's name, or datasets/{digest}"
MODEL = "a model's name, or models/{digest}"
CASCADES = {
    "adapters": "delete its image sets as well, and the evaluations and studies that used them",
    "images": "delete the evaluations and studies that used it as well",
    "evaluations": "delete the studies that refer to it as well, and its trials that no other evaluation has",
}


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar, with every command's handler in `run`."""
    parser = _Parser(
        prog="synthmix",
        description="Does adding synthetic images improve my classifier, at which ratio, and how sure can I be?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.set_defaults(
        home=None, address=None, release=None, kube_context=None, token=None, tls_ca=None, output="text"
    )
    _add_common(parser)
    groups = parser.add_subparsers(title="commands", dest="group", required=True, metavar="COMMAND")
    _add_stack_commands(groups)
    _add_datasets(groups)
    _add_models(groups)
    _add_studies(groups)
    _add_presets(groups)
    adapters = _add_resource(groups, "adapters", "train low-rank adapters and get their weights", "adapter")
    _add_export(adapters)
    _add_import(adapters)
    _add_merge(adapters)
    images = _add_resource(groups, "images", "synthesise image sets and get their images", "image set")
    _add_score(images)
    _add_image_export(images)
    _add_image_import(images)
    _add_resource(groups, "evaluations", "train and evaluate grids of classifiers", "evaluation")
    _add_operations(groups)
    _add_sweep(groups)
    _add_cluster_commands(groups)
    return parser


def _add_stack_commands(groups: Any) -> None:
    up = _command(
        groups,
        "up",
        "stack:up",
        "run the whole stack on this machine until Ctrl-C",
        "Starts object storage, Ray and the four services on loopback with generated credentials, prints how "
        "to reach them, and stops them all on Ctrl-C. Everything is kept in the home (--home, SYNTHMIX_HOME, "
        "~/.synthmix).",
    )
    demo = _command(
        groups,
        "demo",
        "demo:demo",
        "run the sample study on simulated images, from nothing to the report",
        "Starts a stack, makes a dataset of simulated brightfield cell images, runs the sample study on it, "
        "writes the report and stops the stack. Run again, it reuses what is done.",
    )
    demo.add_argument(
        "--study",
        type=_path,
        metavar="FILE",
        help="run this study of the dataset sim-cells instead of the sample study",
    )
    for parser in (up, demo):
        parser.add_argument("--cpus", type=_count(1), metavar="N", help="processors for the workers (default: all)")
        parser.add_argument("--gpus", type=_count(0), metavar="N", help="GPUs for the workers (default: all)")
    doctor = _command(
        groups,
        "doctor",
        "doctor:doctor",
        "check this machine and the stack that runs on it",
        "Checks Python, packages, processors, memory, disk, GPU, object storage and the running stack. "
        "Exits with 1 if a check fails.",
    )
    doctor.add_argument("--services", action="store_true", help="check the stack only, and not this machine")
    doctor.add_argument(
        "--wait",
        type=_count(0),
        default=0,
        metavar="SECONDS",
        help="how long services may take until they answer (default: %(default)s)",
    )


def _add_datasets(groups: Any) -> None:
    commands = _group(groups, "datasets", "import real images and look at them")
    simulate = _command(commands, "simulate", "datasets:simulate", "write a labelled dataset of simulated cell images")
    simulate.add_argument(
        "folder", type=_path, metavar="FOLDER", help="where to write; the folder is made if it does not exist"
    )
    simulate.add_argument(
        "--images-per-class",
        type=_count(0),
        default=120,
        metavar="N",
        help="images of each class (default: %(default)s)",
    )
    simulate.add_argument(
        "--chips", type=_count(0), default=12, metavar="N", help="chips, which are the groups (default: %(default)s)"
    )
    simulate.add_argument(
        "--seed",
        type=_count(0),
        default=0,
        metavar="N",
        help="the same seed gives the same images (default: %(default)s)",
    )
    add = _command(
        commands,
        "import",
        "datasets:import_",
        "make a dataset of a folder, ZIP or manifest",
        "PATH is a folder of class folders, a ZIP of one, or a CSV or Parquet manifest. Splits never separate "
        "images of one group, so say how a group (chip, well, plate, date, patient) is known. Whatever is in PATH "
        "and does not become an image of the dataset is listed with its reason.",
    )
    add.add_argument("path", type=_path, metavar="PATH")
    add.add_argument(
        "--name",
        required=True,
        help="what a study's `dataset:` will say: lower-case letters, digits and hyphens",
    )
    group = add.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--group-pattern",
        metavar="REGEX",
        help=r"regular expression of RE2's syntax, searched in each image's relative path; its group named `group` is "
        r"the image's group, such as 'chip-(?P<group>\d+)'",
    )
    group.add_argument("--group-column", metavar="COLUMN", help="the manifest's column that holds the group")
    group.add_argument(
        "--no-groups",
        action="store_true",
        help="state that the images are independent of one another; reports say so in red",
    )
    add.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="LABEL",
        help="keep this class; may be repeated (default: all)",
    )
    add.add_argument(
        "--channel",
        dest="channels",
        action="append",
        type=_channel_numbers,
        default=[],
        metavar="N[,N...]",
        help="take this channel of each image, counted from 1, as grey; two or three, as in 2,1 or by repeating the "
        "option, become red, green and blue, in this order",
    )
    add.add_argument(
        "--plane",
        type=_count(1),
        default=0,
        metavar="N",
        help="take this plane of each stack, counted from 1, through its slices and then its time points",
    )
    add.add_argument(
        "--white-level",
        type=_count(1, 65535),
        default=0,
        metavar="N",
        help="the value of 16-bit images that becomes white, 1 to 65535 (default: one that suits all images, which "
        "is printed)",
    )
    add.add_argument(
        "--label-column", default="", metavar="COLUMN", help="the manifest's column of labels (default: label)"
    )
    add.add_argument(
        "--path-column", default="", metavar="COLUMN", help="the manifest's column of paths (default: path)"
    )
    add.add_argument(
        "--caption-column",
        dest="caption_columns",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column that is kept as captions, for an adapter's caption_column: of the manifest, or of metadata.csv, "
        "metadata.jsonl or metadata.parquet beside class folders; may be given several times",
    )
    add.add_argument(
        "--yes",
        action="store_true",
        help="state that the top folders are the classes, though they look like something else, such as parts of a "
        "split",
    )
    add.add_argument("--simulated", action="store_true", help="state that the images are simulated; reports repeat it")
    add.add_argument("--replace", action="store_true", help="let the name move here from the dataset that holds it")
    _command(commands, "list", "datasets:list_", "list datasets by the time of their creation, the newest last")
    _command(commands, "show", "datasets:show", "show a dataset", named=DATASET)
    split = _command(
        commands,
        "split",
        "datasets:split",
        "divide a dataset as a study's `split:` does, and say which images are in which part",
        "Makes the split that a study with the same numbers uses, or finds it, and prints its name. With --to it "
        "writes which images each part has, so that a generator can be trained elsewhere on the train images alone.",
        named=DATASET,
    )
    split.add_argument(
        "--test", type=float, metavar="SHARE", help="of the images, in the test part (default: as of a study)"
    )
    split.add_argument(
        "--validation", type=float, metavar="SHARE", help="in the validation part (default: as of a study)"
    )
    split.add_argument(
        "--seed", type=int, metavar="N", help="another seed gives another split (default: as of a study)"
    )
    split.add_argument(
        "--to",
        type=_path,
        metavar="FILE",
        help="write a CSV file with path, label, group, part and sha256 of each image; it needs pyarrow, which the "
        "extra `parquet` brings",
    )
    _add_delete(
        commands,
        "dataset",
        DATASET,
        "Deletes a dataset with its splits and all its names. It is refused while adapters, evaluations or studies "
        "refer to the dataset.",
        "delete all that was made from it as well",
    )
    remove = _command(
        commands,
        "remove-images",
        "deletion:remove_images",
        "remove images from a dataset, as when a patient withdraws consent",
        "Makes the dataset of the other images, which takes over all names, and deletes the old one with its splits "
        "and the uploads that it was imported from. It is refused while adapters, evaluations or studies refer to the "
        "dataset. If others asked for the dataset as well, it takes an administrator, since the images go for all of "
        "them. Shows what goes and asks first.",
        named=DATASET,
    )
    remove.add_argument(
        "--image",
        dest="images",
        action="append",
        default=[],
        metavar="IMAGE",
        help="an image's path in the dataset, such as alpha/plate-1_0.png, or its sha256; may be repeated",
    )
    remove.add_argument(
        "--from-file", type=_path, metavar="FILE", help="a file with an image on each line; - reads standard input"
    )
    remove.add_argument(
        "--group",
        dest="groups",
        action="append",
        default=[],
        metavar="GROUP",
        help="all images of this group, such as a patient's; may be repeated",
    )
    remove.add_argument("--cascade", action="store_true", help="delete all that was made from the dataset as well")
    remove.add_argument(
        "--now",
        action="store_true",
        help="do not keep the files for the grace period: they are gone within two hours, and from caches a day later",
    )
    remove.add_argument("--yes", action="store_true", help="do not ask")


def _add_models(groups: Any) -> None:
    commands = _group(groups, "models", "import base models into object storage and look at them")
    add = _command(
        commands,
        "import",
        "models:import_",
        "put a base model into object storage, for all workers",
        "SOURCE is a folder in the diffusers layout, or owner/name@revision of the hub, which this machine downloads "
        "(pip install 'synthmix[hub]'). Its index, and of each component JSON, the tokenizer's texts and safetensors "
        "are sent, and nothing else; what makes no base model that can be used is refused before its weights are sent. "
        "Done again after an interruption, it sends what is missing. A study then says `base_model: models/{name}`, "
        "and each node fetches the files once.",
    )
    add.add_argument("source", metavar="SOURCE")
    add.add_argument(
        "--name",
        default="",
        help="what `base_model: models/{name}` will say: lower-case letters, digits and hyphens (default: none, and "
        "the model is named by its digest)",
    )
    add.add_argument("--replace", action="store_true", help="let the name move here from the model that holds it")
    _command(commands, "list", "models:list_", "list base models in object storage, the newest first")
    _command(commands, "show", "models:show", "show a base model", named=MODEL)
    _add_delete(
        commands,
        "base model",
        MODEL,
        "Deletes a base model from object storage with all its names. It is refused while adapters, image sets or "
        "studies refer to the model.",
        "delete all that was made with it as well",
    )


def _add_studies(groups: Any) -> None:
    commands = _group(groups, "studies", "plan, run and follow studies")
    summary = "check a study's file and show what it would do and cost"
    _command(commands, "validate", "studies:validate", summary, file=True)
    submit = _command(
        commands,
        "submit",
        "studies:submit",
        "start a study and print its name",
        "Prints the study's name and returns; the study continues in the services. Submitting the same file "
        "again starts nothing that is done or running.",
        file=True,
    )
    submit.add_argument("--wait", action="store_true", help="watch the study until it ends, as `studies watch` does")
    description = "Shows progress with rate and time left. Ctrl-C stops watching, not the study."
    _command(commands, "watch", "studies:watch", "follow a study until it ends", description, named=STUDY)
    _command(commands, "list", "studies:list_", "list studies, the newest first")
    _command(commands, "show", "studies:show", "show a study", named=STUDY)
    cancel = _command(
        commands,
        "cancel",
        "studies:cancel",
        "stop a study; if it is submitted again, it resumes from what is done",
        "If several studies of one name are not finished, the name alone stops none of them, and the command prints "
        "which there are.",
        named="studies/{digest}, or the name in its file if only one study of that name is not finished",
    )
    cancel.add_argument("--all", action="store_true", help="stop every study of this name that is not finished")
    summary = "download a study's report (HTML, JSON, CSV)"
    report = _command(commands, "report", "studies:report", summary, named=STUDY)
    report.add_argument("--to", type=_path, metavar="FOLDER", help="where to write (default: ./{study's name}-report)")
    _add_delete(
        commands,
        "study",
        STUDY,
        "Deletes a study that has ended, with its report. What it made stays, so that another study need not make it "
        "again.",
        "delete what it made as well (adapters, image sets, evaluation, trials, split), as far as nothing else refers "
        "to it; its dataset stays",
    )


def _add_presets(groups: Any) -> None:
    commands = _group(groups, "presets", "show the strategies of the field, which a study may follow")
    _command(commands, "list", "presets:list_", "list presets, and say which cannot be had and why")
    show = _command(
        commands,
        "show",
        "presets:show",
        "print a preset as the sections of a study's file, with what differs from its paper",
        named="such as da-fusion; `synthmix presets list` shows them",
    )
    show.add_argument(
        "--variant",
        default="unidiffda",
        help="paper, its authors' own values, or unidiffda, those of the benchmark of this name (default: %(default)s)",
    )


def _add_resource(groups: Any, group: str, summary: str, noun: str) -> Any:
    """Adds the commands of a kind of resource, and returns what takes further ones."""
    commands = _group(groups, group, summary)
    named = f"the {noun}'s name"
    create = _command(
        commands,
        "create",
        "resources:create",
        f"make an {noun}" if noun[0] in "aei" else f"make a {noun}",
        f"Starts making the {noun} that the file describes, and prints the operation's name. "
        "What exists already is not made again.",
        file=True,
    )
    mode = create.add_mutually_exclusive_group()
    mode.add_argument("--wait", action="store_true", help=f"wait until the {noun} is made, and print its name instead")
    mode.add_argument(
        "--validate", action="store_true", help=f"only check the file, and print what the {noun} would cost"
    )
    _command(commands, "list", "resources:list_", f"list {noun}s")
    _command(commands, "show", "resources:show", f"show one {noun}", named=named)
    description = "Files that are there already are checked, and are not fetched again."
    summary = f"download the files of one {noun}"
    download = _command(commands, "download", "resources:download", summary, description, named=named)
    download.add_argument("--to", type=_path, metavar="FOLDER", help="where to write (default: ./{name's digest})")
    alone = f"Deletes one {noun}. It is refused while something refers to it."
    _add_delete(commands, noun, named, alone, CASCADES[group])
    return commands


def _add_score(commands: Any) -> None:
    score = _command(
        commands,
        "score",
        "images:score",
        "tell whether an image set shows its classes, and how near it comes to real images",
        "Prints in how many of the images a classifier of real train images sees the class that was asked for, and the "
        "kernel inception distance from real validation images. The test part is not read, so that a choice by these "
        "figures leaves it for the study.",
        named="the image set's name",
    )
    score.add_argument(
        "--split",
        default="",
        metavar="SPLIT",
        help="splits/{digest} by whose images it is judged (default: that whose train part its generator saw)",
    )


def _add_image_export(commands: Any) -> None:
    export = _command(
        commands,
        "export",
        "images:export",
        "write an image set in a form that other programs read",
        "Fetches an image set and writes its images with what is known of each: class, prompt, seed, and the train "
        "images that it is a child of. It needs pyarrow, which the extra `parquet` of the installation brings.",
        named="the image set's name",
    )
    export.add_argument(
        "--format",
        required=True,
        metavar="FORMAT",
        help="imagefolder: a folder for each class and metadata.jsonl, as torchvision's ImageFolder and Hugging Face's "
        "datasets read it; zip: the same as one ZIP file; webdataset: a folder of tar files, as webdataset and "
        "datasets read it",
    )
    export.add_argument(
        "--out",
        required=True,
        type=_path,
        metavar="PATH",
        help="where to write; nothing may be there yet, and a ZIP file's name ends in .zip",
    )


def _add_image_import(commands: Any) -> None:
    add = _command(
        commands,
        "import",
        "images:import_",
        "make an image set of images that another program made",
        "PATH is a folder with a folder for each class, a ZIP of one, or a manifest (.csv, .tsv, .jsonl, .parquet) of "
        "paths and labels. A metadata.jsonl beside the folders, as `synthmix images export` writes it, says of each "
        "image its label, prompt, seed and sources. Evaluations refuse the image set if its generator saw an image of "
        "their validation or test part; so say what it saw, by at least one of --saw, --saw-list and --saw-none.",
    )
    add.add_argument("path", type=_path, metavar="PATH")
    add.add_argument(
        "--saw",
        action="append",
        default=[],
        metavar="IMAGES",
        help="real images that the generator saw: splits/{digest}/parts/train, or all of a dataset by its name or "
        "datasets/{digest}; may be repeated",
    )
    add.add_argument(
        "--saw-list",
        type=_path,
        metavar="FILE",
        help="real images that it saw: a file with the sha256 of an image's file in each line, as sha256sum writes it",
    )
    add.add_argument(
        "--saw-none", action="store_true", help="state that it saw no image of any dataset that is used here"
    )
    add.add_argument(
        "--origin",
        default="",
        metavar="TEXT",
        help="where the images are from, for lists and results (default: PATH's name)",
    )
    add.add_argument(
        "--image-size",
        type=_count(16, 2048),
        default=0,
        metavar="PIXELS",
        help="side to which each image's centre square is resized (default: all have to be squares of one side)",
    )
    add.add_argument(
        "--yes", action="store_true", help="state that the top folders are the classes, though they do not look so"
    )


def _add_export(commands: Any) -> None:
    export = _command(
        commands,
        "export",
        "adapters:export",
        "write an adapter in a form that other tools read",
        "Fetches an adapter and writes it in another form, without an installation of torch. Prints what was written, "
        "and what some readers leave out of it.",
        named="the adapter's name",
    )
    export.add_argument(
        "--format",
        required=True,
        metavar="FORMAT",
        help="diffusers: one file that diffusers' load_lora_weights reads, of lora, rslora, dora, pissa and olora; "
        "peft: a folder that PEFT's PeftModel.from_pretrained(unet, folder) reads, of every method; "
        "kohya: one file under the names of kohya's sd-scripts and of LyCORIS, as most other programs read it, of all "
        "methods but oft and boft; "
        "unet: of method full, a folder that diffusers' UNet2DConditionModel.from_pretrained reads; "
        "textual-inversion: learned tokens, a folder with a file for each class, as diffusers' load_textual_inversion "
        "reads it",
    )
    export.add_argument(
        "--out",
        required=True,
        type=_path,
        metavar="PATH",
        help="where to write; nothing may be there yet, and a file's name ends in .safetensors",
    )
    export.add_argument(
        "--class",
        dest="label",
        default="",
        metavar="CLASS",
        help="the class whose adapter is meant, of one that was trained with `per: class`",
    )
    export.add_argument(
        "--image",
        default="",
        metavar="IMAGE",
        help="the train image whose adapter is meant, of one that was trained with `per: image`: its path in the "
        "dataset, the path's last part, or the beginning of its sha256",
    )


def _add_import(commands: Any) -> None:
    add = _command(
        commands,
        "import",
        "adapters:import_",
        "make an adapter of a file that another program wrote",
        "PATH is a safetensors file as of kohya's sd-scripts, LyCORIS (LoHa, LoKr) or diffusers, or a folder in PEFT's "
        "layout, with an adapter of the UNet of Stable Diffusion 1.x, 2.x or SDXL. What it was trained on is not "
        "known, so that evaluations and studies refuse image sets that are made with it.",
    )
    add.add_argument("path", type=_path, metavar="PATH")
    add.add_argument(
        "--base-model",
        required=True,
        metavar="MODEL",
        help="what it was trained on: builtin, models/{name} of object storage, a folder in the diffusers layout that "
        "workers can read, or owner/name@revision of the hub",
    )
    add.add_argument(
        "--class",
        dest="classes",
        action="append",
        required=True,
        metavar="LABEL",
        help="what {label} in prompts may be: a label of images that are made with it; may be repeated",
    )
    add.add_argument(
        "--prompt",
        default="",
        help="the prompt that it was trained with, and {label} where the class is named (default: 'a microscopy image "
        "of a {label} cell')",
    )
    add.add_argument(
        "--image-size",
        type=_count(16, 2048),
        default=0,
        metavar="PIXELS",
        help="side of the images that are made with it (default: the base model's own)",
    )
    add.add_argument("--grey", action="store_true", help="images that are made with it are grey")


def _add_merge(commands: Any) -> None:
    merge = _command(
        commands,
        "merge",
        "adapters:merge",
        "write one LoRA whose update is the weighted sum of several adapters'",
        "ADAPTER is an adapter's name, or a path of what `synthmix adapters import` takes. Adapters of LoRA's kind are "
        "merged exactly, by adding up their ranks, unless --rank is given; of loha and lokr the sum is cut to a rank "
        "by its singular values, and what that leaves out is printed. dora, oft and boft do not add up. All have to be "
        "of one base model. Needs numpy: pip install 'synthmix[merge]'.",
    )
    merge.add_argument("adapters", nargs="+", metavar="ADAPTER")
    merge.add_argument(
        "--weights",
        type=_numbers,
        required=True,
        metavar="W[,W...]",
        help="what each adapter's update is multiplied with, in their order; --weights=-1,1 if the first is negative",
    )
    merge.add_argument(
        "--rank", type=_count(1, 4096), metavar="K", help="the largest rank of a layer (default: the sum of all ranks)"
    )
    merge.add_argument(
        "--format", default="diffusers", metavar="FORMAT", help="diffusers, kohya or peft (default: %(default)s)"
    )
    merge.add_argument(
        "--out",
        required=True,
        type=_path,
        metavar="PATH",
        help="where to write; nothing may be there yet, and a file's name ends in .safetensors",
    )


def _add_operations(groups: Any) -> None:
    commands = _group(groups, "operations", "look at long-running work, and stop it")
    listing = _command(commands, "list", "operations:list_", "list operations, the newest first")
    listing.add_argument("--service", help="list the operations of this service only, such as image-synthesis")
    for command, summary in (
        ("show", "show an operation"),
        ("wait", "follow an operation until it ends"),
        ("cancel", "stop an operation; the same request resumes from what is done"),
    ):
        _command(commands, command, f"operations:{command}", summary, named="operations/{service}/{id}")


def _add_cluster_commands(groups: Any) -> None:
    _command(groups, "cluster", "cluster:show", "show a Kubernetes cluster's GPU nodes and worker groups")
    scale = _command(
        groups,
        "scale",
        "cluster:scale",
        "change how many workers a group of a Kubernetes cluster may have",
        "Changes one group and leaves the others as they are: generation can grow without training. Prints the group "
        "before and after. The next `helm upgrade` sets what the chart's values say.",
    )
    scale.add_argument("worker_group", metavar="GROUP", help="such as image-synthesis; `synthmix cluster` shows them")
    scale.add_argument(
        "--min", type=_count(0), metavar="N", help="number of workers that are always there (default: as it is)"
    )
    scale.add_argument("--max", type=_count(0), metavar="N", help="highest number of workers (default: as it is)")


def _add_sweep(groups: Any) -> None:
    sweep = _command(
        groups,
        "sweep",
        "deletion:sweep",
        "delete what nothing needs from object storage now",
        "Deletes files of what was deleted, uploads and checkpoints, once their grace periods have passed, and prints "
        "what went. The services do the same every hour.",
    )
    sweep.add_argument("--dry-run", action="store_true", help="delete nothing, and print what would go")


def _add_delete(commands: Any, noun: str, named: str, alone: str, cascade: str) -> None:
    """Adds the command that deletes one of something.

    Args:
        named: What its name may be.
        alone: What goes without --cascade, and what does not.
        cascade: What --cascade deletes.
    """
    summary = f"delete {'an' if noun[0] in 'aei' else 'a'} {noun}"
    later = "Shows what goes and asks first. The files in object storage go later, after the time that is printed."
    delete = _command(commands, "delete", "deletion:delete", summary, f"{alone} {later}", named=named)
    delete.add_argument("--cascade", action="store_true", help=cascade)
    delete.add_argument("--yes", action="store_true", help="do not ask")


def _group(groups: Any, name: str, summary: str) -> Any:
    parser = groups.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    return parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")


def _command(
    commands: Any, name: str, run: str, summary: str, description: str = "", *, file: bool = False, named: str = ""
) -> argparse.ArgumentParser:
    """Adds a command.

    Args:
        run: Its handler, as the module's docstring says.
        file: Whether it takes a FILE.
        named: What it is given by name, as the help of its argument NAME; it has none if this is "".
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description or summary, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    if file:
        parser.add_argument("file", type=_path, metavar="FILE", help="YAML or JSON; - reads standard input")
    if named:
        parser.add_argument("name", metavar="NAME", help=named)
    _add_common(parser)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """The options that may stand before or after the command.

    Their defaults are suppressed: the command's parser must not reset what stood before the command.
    """
    common = parser.add_argument_group("common options", argument_default=argparse.SUPPRESS)
    common.add_argument("--home", type=_path, metavar="FOLDER", help="the home of a stack on this machine")
    common.add_argument(
        "--address",
        help="host:port or https://host of a stack elsewhere, or SERVICE=host:port,... for each service",
    )
    common.add_argument(
        "--release",
        metavar="NAMESPACE/NAME",
        help="a release of the Helm chart, reached through the Kubernetes API for as long as the command runs; "
        "NAME alone is looked for in the kubeconfig context's namespace",
    )
    common.add_argument(
        "--kube-context",
        metavar="CONTEXT",
        help="the kubeconfig's context that leads to the release (default: the current one)",
    )
    common.add_argument("--token", help="the stack's token, or a caller's own of its Kubernetes cluster")
    common.add_argument(
        "--tls-ca",
        type=_path,
        metavar="PEM",
        help="trust these authorities, and use TLS (default for a release that serves TLS: its own, from the cluster)",
    )
    common.add_argument(
        "--output", choices=("text", "json"), help="json prints one JSON value to standard output (default: text)"
    )


def _numbers(text: str) -> list[float]:
    """Numbers, parted by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not numbers parted by commas") from None


def _channel_numbers(text: str) -> list[int]:
    """Channels, counted from 1 and parted by commas."""
    return [_count(1)(part.strip()) for part in text.split(",")]


def _count(least: int, most: int = MOST_COUNTED) -> Callable[[str], int]:
    """A whole number of at least this, and at most that."""

    def parse(text: str) -> int:
        digits = text.lstrip("0") or text[-1:]  # Python refuses to read thousands of them
        if not text.isdecimal() or len(digits) > 10 or not least <= int(digits) <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number of {least} to {most}")
        return int(digits)

    return parse


def _path(text: str) -> Path:
    """An empty path, as an unset variable leaves it, would mean the current folder."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a path")
    return Path(text)


class _Parser(argparse.ArgumentParser):
    """argparse says nothing when its help can't be written, and exits with 0. Sub-parsers are of this class too."""

    def _print_message(self, message: str, file: Any = None) -> None:
        try:
            (file or sys.stderr).write(message)
        except OSError:
            if file is sys.stdout:  # that misuse couldn't be explained doesn't change what it is
                raise


class _Version(argparse.Action):
    """argparse's own action wants the version at once, and finding it takes longer than all of --help."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        import synthmix

        print(f"synthmix {synthmix.__version__}")
        parser.exit()
