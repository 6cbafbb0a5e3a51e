"""Which adapter is worth its seconds? Methods, layers and ranks on six phenotypes that the base model never saw.

Usage: ``python tests/benchmarks/adapter_options STEP ... --home FOLDER``, with these steps in this order:

study    Measures what an image seen costs each adapter of design.py, and writes studies/adapter_options.yaml.
run      Runs that study three times, with other seeds, on a local stack in HOME, where it stays: run again, nothing is
         done twice. Writes a row an adapter to results/adapter-options.csv; seeds that are there are left out.
search   Lets a search look for the best two of the same adapters in a quarter of the seconds that all of them took.
compare  Trains classifiers with images of the best and the worst five, each beside one without.
table    Writes results/adapter-options.md of what there is.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from design import study_of_seed, write_study
from real_images import DATA, MITOCHECK_SIX, PLATE
from rows import Option, Row, by_option, read_rows, write_rows
from studies import show_study
from synthmix import Client, GroupRule
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.local import local_stack
from synthmix.service_kit.adapter_payloads import FULL
from table import COMPARED, SEARCHED, write_table

SEEDS = (0, 1, 2)
SEARCH_SHARE = 0.25
KEPT = 2
MOST_COMPARED = 5
COMPARED_RATIO = 0.5
COMPARED_SEEDS = 5
COMPARED_EPOCHS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", choices=STEPS, nargs="+", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--home", type=Path, required=True, help="of the local stack")
    arguments = parser.parse_args()
    for step in arguments.steps:
        STEPS[step](arguments.home.resolve())


def run(home: Path) -> None:
    for seed in SEEDS:
        if any(row.seed == seed for row in read_rows()):
            print(f"seed {seed} is there")
            continue
        with local_stack(home, say=print), Client.connect(home) as client:
            study = finished(client, study_of_seed(seed))
            fidelity = client.evaluations.get(study.evaluation).fidelity
            rows = [row_of(client, seed, image_set, fidelity) for image_set in study.image_sets]
        write_rows([*read_rows(), *rows])


def finished(client: Client, spec: studies_pb2.StudySpec) -> studies_pb2.Study:
    """Runs a study to its end, on its dataset, which is imported if it is not there."""
    client.import_dataset(
        DATA / "mitocheck", spec.dataset, group=GroupRule(pattern=PLATE), classes=MITOCHECK_SIX, replace=True
    )
    return show_study(client, spec)


def row_of(client: Client, seed: int, image_set: str, fidelity: evaluations_pb2.Fidelity) -> Row:
    made, score = client.image_sets.get(image_set), client.score_images(image_set)
    adapter = client.adapters.get(made.adapter)
    real = fidelity.sources[0]
    [near] = [source for source in fidelity.sources if source.image_set == image_set]
    return Row(
        seed=seed,
        option=Option.of(adapter.settings),
        parameters=adapter.parameter_count,
        images_seen=adapter.images_seen,
        seconds=round(adapter.seconds, 1),
        held_out_loss=round(adapter.held_out_losses[-1].loss, 5),
        class_consistency=round(score.class_consistency, 4),
        real_class_consistency=round(score.real_class_consistency, 4),
        kid=round(near.kernel_inception_distance, 4),
        real_kid=round(real.kernel_inception_distance, 4),
        near_copy_share=round(near.near_copy_share, 4),
        image_seconds=round(made.seconds, 1),
        score_seconds=round(score.seconds, 1),
    )


def search(home: Path) -> None:
    """A search among the adapters of the first seed, all but the whole UNet, which is none."""
    [seed, *_] = SEEDS
    rows = [row for row in read_rows() if row.seed == seed and row.option.method != FULL]
    spec = study_of_seed(seed)
    spec.name = f"{spec.name}-search"
    keep_adapters(spec, [row.option for row in rows])
    full_seconds = sum(row.all_seconds for row in rows)
    spec.search.budget_seconds = round(SEARCH_SHARE * full_seconds)
    spec.search.keep = KEPT
    spec.search.images_per_class = spec.synthesis[0].per_class
    with local_stack(home, say=print), Client.connect(home) as client, tempfile.TemporaryDirectory() as folder:
        study = finished(client, spec)
        kept = [Option.of(client.adapters.get(name).settings) for name in study.adapters]
        [path] = client.download(study.name, Path(folder), only=["search.json"])
        found = json.loads(path.read_text(encoding="utf-8"))["search"]
    order = [row.option for row in sorted(rows, key=lambda row: -row.class_consistency)]
    SEARCHED.write_text(
        json.dumps(
            {
                "candidates": len(rows),
                "tried": found["tried"],
                "full_seconds": round(full_seconds),
                "spent_seconds": round(found["spent_seconds"]),
                "kept": [f"{option.method}, {option.targets}, {option.size}" for option in kept],
                "places": [1 + order.index(option) for option in kept],
            },
            indent=1,
        )
    )


def compare(home: Path) -> None:
    """Classifiers of real images, and of these with half as many synthetic ones of the best and the worst adapters."""
    [seed, *_] = SEEDS
    order = [option for option in by_option(read_rows()) if option.method != FULL]
    spec = study_of_seed(seed)
    spec.name = f"{spec.name}-compared"
    keep_adapters(spec, [*order[:MOST_COMPARED], *order[-MOST_COMPARED:]])
    spec.synthesis[0].ClearField("per_class")
    spec.mixtures.ratios[:] = [0.0, COMPARED_RATIO]
    spec.classifier.epochs = COMPARED_EPOCHS
    spec.seeds = COMPARED_SEEDS
    with local_stack(home, say=print), Client.connect(home) as client:
        study = finished(client, spec)
        evaluation = client.evaluations.get(study.evaluation)
        options = {
            name: Option.of(client.adapters.get(client.image_sets.get(name).adapter).settings)
            for name in study.image_sets
        }
    compared = [
        {
            **vars(options[item.mixture.image_set]),
            "balanced_accuracy": round(item.balanced_accuracy.mean, 4),
            "difference": round(item.difference.mean, 4),
            "low": round(item.difference.low, 4),
            "high": round(item.difference.high, 4),
        }
        for item in evaluation.comparison.mixtures
        if item.mixture.image_set
    ]
    real = evaluation.comparison.mixtures[0].balanced_accuracy.mean
    COMPARED.write_text(
        json.dumps(
            {
                "ratio": COMPARED_RATIO,
                "seeds": COMPARED_SEEDS,
                "epochs": COMPARED_EPOCHS,
                "confidence": evaluation.comparison.confidence,
                "real_balanced_accuracy": round(real, 4),
                "mixtures": compared,
            },
            indent=1,
        )
    )


def keep_adapters(spec: studies_pb2.StudySpec, options: Sequence[Option]) -> None:
    wanted = [item for item in spec.adapters if Option.of(item) in options]
    del spec.adapters[:]
    spec.adapters.extend(wanted)


STEPS: dict[str, Callable[[Path], None]] = {
    "study": lambda home: write_study(),
    "run": run,
    "search": search,
    "compare": compare,
    "table": lambda home: write_table(),
}

if __name__ == "__main__":
    main()
