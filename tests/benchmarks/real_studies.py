"""The paper's six mixtures on real images: hek_ht1080 by field of view, and six phenotypes of mitocheck by plate.

Usage: ``python tests/benchmarks/real_studies.py --home FOLDER [--study hek_ht1080]``. On the six phenotypes,
``--study mitocheck_six_selection`` asks what choosing among synthetic images is worth, and
``--study mitocheck_six_strengths`` what strength, guidance and the adapter's scale do.

Runs the studies beside this file on a local stack in HOME, where they stay: run again, nothing is done twice. The
reports are written to HOME/reports.
"""

import argparse
from pathlib import Path

from real_images import DATA, FIELD, MITOCHECK_SIX, PLATE
from studies import show_study
from synthmix import Client, GroupRule
from synthmix.cli.studies import located
from synthmix.client.study_file import read_study
from synthmix.local import local_stack

HERE = Path(__file__).resolve().parent
# Of each study: its dataset's folder, the pattern of a group, and the classes; none keeps all.
STUDIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "hek_ht1080": ("hek_ht1080", FIELD, ()),
    "mitocheck_six": ("mitocheck", PLATE, MITOCHECK_SIX),
    "mitocheck_six_selection": ("mitocheck", PLATE, MITOCHECK_SIX),
    "mitocheck_six_strengths": ("mitocheck", PLATE, MITOCHECK_SIX),
}
# Those of the paper's question, which are run if none are named.
PAPERS = ["hek_ht1080", "mitocheck_six"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--study", choices=STUDIES, nargs="+", default=PAPERS)
    arguments = parser.parse_args()
    home: Path = arguments.home.resolve()
    with local_stack(home, say=print), Client.connect(home) as client:
        for name in arguments.study:
            run(client, name, home / "reports" / name)


def run(client: Client, name: str, reports: Path) -> None:
    """Imports the dataset, runs the study to its end, and writes its report."""
    folder, pattern, classes = STUDIES[name]
    document = read_study(HERE / "studies" / f"{name}.yaml")
    client.import_dataset(
        DATA / folder, document.message.dataset, group=GroupRule(pattern=pattern), classes=classes, replace=True
    )
    with located(document):
        study = show_study(client, document.message)
    paths = client.download_report(study.name, reports)
    print(f"\n{study.verdict}\nreport: {paths[0]}\n")


if __name__ == "__main__":
    main()
