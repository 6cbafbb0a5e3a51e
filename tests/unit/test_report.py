"""Reports: self-contained, safe with any text, right in their numbers, legible in hard cases."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from synthmix.api.evaluations.v1.evaluations_pb2 import (
    ClassResult,
    Comparison,
    Estimate,
    Fidelity,
    MeasuredImages,
    MeasuredValue,
    Metric,
    Mixture,
    MixtureKind,
    MixtureResult,
    SourceFidelity,
    Training,
    TrialResult,
    Verdict,
)
from synthmix.classifier_evaluation.fidelity_measures import MEASURES
from synthmix.classifier_evaluation.metrics import metric_messages
from synthmix.image_data.mixture_kinds import KINDS, kind_message
from synthmix.image_data.reconstruction_quality import ReconstructionQuality
from synthmix.study_control.report import (
    charts,
    formatting,
    render_csv,
    render_html,
    render_json,
    render_run_json,
    tables,
)
from synthmix.study_control.report.data import (
    Adapter,
    Artifact,
    AutoencoderCheck,
    Dataset,
    Gallery,
    ImageSet,
    LeakageCheck,
    LossPoint,
    NearPair,
    Preset,
    Previews,
    Provenance,
    ReportData,
    SplitPart,
    StepCost,
    Study,
    SyntheticExample,
)

NASTY = "</style><script>alert('x')</script>\"'><img src=x onerror=alert(1)>"


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), grey).save(file, "PNG")
    return file.getvalue()


def estimate(mean: float, half: float, seeds: int) -> Estimate:
    per_seed = [mean + 0.01 * (s - (seeds - 1) / 2) for s in range(seeds)]
    return Estimate(mean=mean, low=mean - half, high=mean + half, per_seed=per_seed, seed_share=0.25)


def compared(
    ratios: Sequence[float] = (0.1, 0.25, 0.5, 0.75),
    image_sets: Sequence[str] = ("lora-r4",),
    *,
    mode: str = "append",
    seeds: int = 3,
    synthetic_only: float | None = 0.5,
    control: bool = True,
    reconstructed: bool = False,
    half: float = 0.02,
    **changes: Any,
) -> Comparison:
    """A comparison in which each mixture scores 1 point more than the one before it, from 0.8."""
    mixtures, kinds = [], ["real"]
    for number, image_set in enumerate(image_sets):
        of_set = {"image_set": f"image-sets/{number:032x}", "image_set_label": image_set}
        kinds += [mode] if ratios else []
        mixtures += [
            Mixture(key=f"{mode}-{r}@{image_set}", label=f"{mode} {100 * r:g} %", kind=mode, ratio=r, **of_set)
            for r in ratios
        ]
        if synthetic_only is not None:
            kinds.append("synthetic_only")
            mixtures.append(Mixture(key=f"only@{image_set}", label="synthetic only", kind="synthetic_only", **of_set))
    if control and ratios:
        kinds.append("duplicated_real")
        mixtures += [
            Mixture(key=f"duplicated-{r}", label=f"real duplicated {100 * r:g} %", kind="duplicated_real", ratio=r)
            for r in ratios
        ]
    if reconstructed:
        kinds.append("reconstructed_real")
        mixtures.append(Mixture(key="reconstructed_real", label="real reconstructed", kind="reconstructed_real"))
    real = Mixture(key="real", label="real only", kind="real", ratio=0.0)
    results = [
        MixtureResult(mixture=real, validation_balanced_accuracy=0.8, balanced_accuracy=estimate(0.8, half, seeds))
    ]
    for index, mixture in enumerate(mixtures):
        mean = 0.8 + 0.01 * (index % 10 + 1)
        if mixture.kind == "synthetic_only" and synthetic_only is not None:
            mean = synthetic_only
        results.append(
            MixtureResult(
                mixture=mixture,
                validation_balanced_accuracy=mean,
                balanced_accuracy=estimate(mean, half, seeds),
                difference=estimate(mean - 0.8, half, seeds),
            )
        )
    values: dict[str, Any] = {
        "reference": "real",
        "confidence": 0.95,
        "margin": 0.02,
        "seeds": seeds,
        "test_images": 40,
        "test_groups": 12,
        "resampled": "group",
        "resamples": 2000,
        "mixtures": results,
        "kinds": [kind_message(KINDS[name]) for name in dict.fromkeys(kinds)],
        "warnings": ["Only 3 seeds were run."],
    }
    if mixtures:
        values["verdict"] = Verdict(kind="inconclusive", key=mixtures[0].key, sentence="Inconclusive: it may be.")
    return Comparison(**(values | changes))


def with_verdict(comparison: Comparison, kind: str, key: str, sentence: str) -> Comparison:
    changed = Comparison()
    changed.CopyFrom(comparison)
    changed.verdict.CopyFrom(Verdict(kind=kind, key=key, sentence=sentence))
    return changed


def trial_result(mixture: str, seed: int, class_names: Sequence[str], right: int) -> TrialResult:
    """Of 10 test images of each class, `right` right and the others taken for the next class; no AUROC."""
    classes = []
    for index, name in enumerate(class_names):
        row = [0] * len(class_names)
        row[index] = right
        row[(index + 1) % len(class_names)] += 10 - right
        classes.append(ClassResult(label=name, images=10, precision=right / 10, recall=right / 10, predicted_as=row))
    names = [metric.name for metric in metric_messages() if metric.name != "auroc"]
    return TrialResult(
        trial=f"trials/{seed:032x}",
        training=Training(
            mixture=mixture,
            seed=seed,
            classes=class_names,
            real_images=100,
            synthetic_images=25,
            optimizer_steps=400,
            best_epoch=7,
        ),
        test_metrics=dict.fromkeys(names, right / 10),
        classes=classes,
    )


def report(
    found: Comparison | None = None,
    class_names: tuple[str, ...] = ("round", "spindle"),
    *,
    name: str = "first-look",
    simulated: bool = False,
    group_rule: str | None = 'column "chip"',
    **changes: Any,
) -> ReportData:
    found = found or compared()
    image_sets = list(dict.fromkeys(m.mixture.image_set_label for m in found.mixtures if m.mixture.image_set))
    trials = [
        trial_result(m.mixture.key, seed, class_names, 8 if index else 6 + seed % 2)
        for index, m in enumerate(found.mixtures)
        for seed in range(found.seeds)
    ]
    example = SyntheticExample(png(10), png(20), 3.25)
    parts = [SplitPart(part, 12, dict.fromkeys(class_names, 20)) for part in ("train", "validation", "test")]
    values: dict[str, Any] = {
        "study": Study(name, "studies/0123abcd", datetime(2025, 11, 22, 10, 42, tzinfo=UTC), f"name: {name}\n"),
        "dataset": Dataset("cells", "ab" * 32, simulated, group_rule, tuple(parts), ("2 near-duplicates.",)),
        "class_names": class_names,
        "base_model": "builtin",
        "autoencoder_checks": (),
        "adapters": tuple(
            Adapter(
                s,
                {"Method": "lora", "Rank": "4", "Images seen": "480"},
                9000,
                0.08,
                (LossPoint(0, 0.4), LossPoint(480, 0.08)),
                9.0,
                0.0,
            )
            for s in image_sets
        ),
        "image_sets": tuple(
            ImageSet(s, s, dict.fromkeys(class_names, 50), {"Prompt": "cells of {label}", "Steps": "25"}, 8.0, 0.0)
            for s in image_sets
        ),
        "fidelity": Fidelity(
            feature_network="lite0",
            image_size=64,
            near_copy_percentile=1,
            sources=[
                SourceFidelity(label="real images", images=40, kernel_inception_distance=0.001, near_copy_share=0.012),
                *(
                    SourceFidelity(image_set=name, images=100, kernel_inception_distance=0.0321, near_copy_share=0.025)
                    for name in dict.fromkeys(m.mixture.image_set for m in found.mixtures if m.mixture.image_set)
                ),
            ],
        ),
        "galleries": tuple(Gallery(s, c, (example,) * 3) for s in image_sets for c in class_names),
        "real_examples": {c: (png(30), png(40)) for c in class_names},
        "nearest_distance": "Euclidean distance",
        "classifier": {"Architecture": "resnet10t"},
        "comparison": found,
        "metrics": tuple(metric_messages()),
        "trials": tuple(trials),
        "leakage": (LeakageCheck("Validation and test hold real images only", "0 of 80 are not", "held"),),
        "costs": (StepCost("classifiers", 20, 4, 125.0, 0.0, None),),
        "provenance": Provenance((Artifact("split", "7", "cd" * 32),), {"evaluation": "1"}, {"timm": "1.0"}),
        "warnings": (),
    }
    return ReportData(**(values | changes))


LOST = ReconstructionQuality(32, 23.8, 15.5, 18.3, 0.7)


def check(
    quality: ReconstructionQuality | None, *warnings: str, base_model: str = "builtin", image_size: int = 64
) -> AutoencoderCheck:
    return AutoencoderCheck(base_model, image_size, quality, warnings)


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.tags if attribute in attributes]


CASES: dict[str, Callable[[], ReportData]] = {
    "usual": report,
    "one ratio": lambda: report(compared([0.25])),
    "one seed": lambda: report(compared(seeds=1)),
    "no synthetic only": lambda: report(compared(synthetic_only=None)),
    "synthetic only above the rest": lambda: report(compared(synthetic_only=0.97)),
    "no control": lambda: report(compared(control=False)),
    "crowded ratios": lambda: report(compared([0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 10.0])),
    "nine image sets": lambda: report(compared([0.1, 0.5], [f"set {k}" for k in range(9)])),
    "long names": lambda: report(
        compared(image_sets=["dora-r16-attention+feedforward+convolution-lr-0.0002-" * 3, "細胞" * 30]),
        ("Interphase" * 20, "b" * 200),
    ),
    "sixteen classes": lambda: report(class_names=tuple(f"phenotype {k}" for k in range(16))),
    "real only": lambda: report(compared([], synthetic_only=None, control=False)),
    "nothing spreads": lambda: report(compared([0.1], synthetic_only=None, control=False, half=0.0, seeds=1)),
    "simulated without groups": lambda: report(simulated=True, group_rule=None),
    "reconstructed": lambda: report(compared(reconstructed=True)),
    "reconstructed, no synthetic only": lambda: report(compared(reconstructed=True, synthetic_only=None)),
    "no colour": lambda: report(autoencoder_checks=(check(LOST, f"it is {NASTY}"), check(None, image_size=128))),
    "share": lambda: report(compared(mode="share")),
    "replace": lambda: report(compared(mode="replace", control=False)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_page_needs_nothing_from_outside_and_names_all_it_shows(case: str) -> None:
    html = render_html(CASES[case]())
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert all(value.startswith("#") and value[1:] in ids for value in page.values("href"))
    assert all(value in ids for value in page.values("aria-labelledby"))
    assert "http" not in html and "url(" not in html and "@import" not in html
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width_px", [920, 340])
def test_no_text_of_a_chart_overlaps_another_or_leaves_the_chart(case: str, width_px: int) -> None:
    found = CASES[case]().comparison
    for markup in (charts.ratio_curve(found, width_px), charts.forest_plot(found, width_px)):
        svg = ElementTree.fromstring(str(markup))
        assert svg.find("title") is not None and svg.find("desc") is not None
        boxes = [text_box(text) for text in svg.iter("text")]
        height = float(svg.attrib["height"])
        for left, top, right, bottom, text in boxes:
            assert left >= 0 and right <= width_px and top >= 0 and bottom <= height, text
        for index, one in enumerate(boxes):
            for other in boxes[index + 1 :]:
                apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
                assert apart, (one, other)
        for value in numbers(svg):
            assert -1.0 <= value <= max(width_px, height) + 1.0


def text_box(text: ElementTree.Element) -> tuple[float, float, float, float, str]:
    """Left, top, right and bottom of a text of 13 pixels, by a browser's usual widths."""
    content = text.text or ""
    width = sum(13.0 if ord(character) > 0x2E80 else 6.9 for character in content)
    x, y = float(text.attrib["x"]), float(text.attrib["y"])
    left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[text.attrib["text-anchor"]] * width
    return left, y - 10.0, left + width, y + 3.0, content


def numbers(svg: ElementTree.Element) -> list[float]:
    """All coordinates of a chart's shapes."""
    values = []
    for element in svg.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy"):
            if name in element.attrib:
                values.append(float(element.attrib[name]))
        values += [float(value) for value in re.findall(r"[-\d.]+", element.attrib.get("points", ""))]
    return values


def test_text_from_users_never_becomes_markup() -> None:
    found = compared(image_sets=[NASTY], warnings=(NASTY,))
    found = with_verdict(found, "harms", found.mixtures[1].mixture.key, NASTY)
    for result in found.mixtures:
        result.mixture.label = NASTY
    found.kinds[1].CopyFrom(MixtureKind(name="append", label=NASTY, axis_title=NASTY, sentence=NASTY))
    data = report(found, (NASTY, "b"), name=NASTY, group_rule=NASTY, base_model=NASTY, classifier={NASTY: NASTY})
    data = replace(
        data,
        costs=(replace(data.costs[0], name=NASTY),),
        leakage=(LeakageCheck(NASTY, NASTY, "unknown"),),
        metrics=(Metric(name="accuracy", label=NASTY),),
        provenance=Provenance((Artifact(NASTY, NASTY, NASTY),), {NASTY: NASTY}, {NASTY: NASTY}),
        autoencoder_checks=(check(LOST, NASTY, base_model=NASTY), check(LOST, base_model=NASTY)),
        image_sets=tuple(replace(image_set, settings={NASTY: NASTY}) for image_set in data.image_sets),
    )
    html = render_html(data)
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all(value.startswith("data:") for value in page.values("src"))
    # The page's own style sheet ends at its own end.
    assert html.count("</style>") == 1
    assert NASTY in "".join(page.text)


def test_the_verdict_stands_at_the_top_with_its_badge() -> None:
    for kind, badge in (
        ("improves", "▲ Improves"),
        ("harms", "▼ Harms"),
        ("equivalent", "= Equivalent"),
        ("inconclusive", "? Inconclusive"),
    ):
        html = render_html(report(with_verdict(compared(), kind, "append-0.25@lora-r4", "The sentence.")))
        assert f'<span class="badge {kind}">{badge}</span>' in html
        assert html.index("The sentence.") < html.index("<h2")
    without = compared()
    without.ClearField("verdict")
    assert "No verdict: the study has no mixture of real and synthetic" in render_html(report(without))


def test_the_control_of_the_chosen_size_stands_beside_the_verdict() -> None:
    found = compared()
    html = render_html(report(found))
    control = next(m for m in found.mixtures if m.mixture.key == "duplicated-0.1")
    words = f"Real images duplicated (control): {formatting.points(control.difference.mean)} points against"
    assert words in html
    assert html.count("(control): ") == 1
    both = render_html(report(compared(reconstructed=True)))
    assert "Real images reconstructed (control): " in both and "Real images duplicated (control): " in both
    assert "(control): " not in render_html(report(compared(control=False)))


def test_simulated_images_missing_groups_and_broken_rules_are_loud() -> None:
    plain = render_html(report())
    loud = render_html(
        report(
            simulated=True, group_rule=None, leakage=(LeakageCheck("Test is real only", "3 of 40 are not", "broken"),)
        )
    )
    for words in ("SIMULATED IMAGES", "No groups:", "Leakage rule broken: Test is real only: 3 of 40 are not."):
        assert words in loud and words not in plain
    assert "Real train images (simulated)" in loud
    for warning in ("2 near-duplicates.", "Only 3 seeds were run."):
        assert warning in plain


def test_a_broken_rule_comes_first_and_takes_the_verdict_away() -> None:
    lines = (
        LeakageCheck("Types", "nothing else fits", "by construction"),
        LeakageCheck("Held", "0 of 80", "held"),
        LeakageCheck("Broken", "3 of 80", "broken"),
        LeakageCheck("Groups", "none stated", "unknown"),
    )
    data = report(leakage=lines)
    html = render_html(data)
    assert html.index('role="alert">Leakage rule broken: Broken: 3 of 80.') < html.index('class="verdict"')
    assert "No verdict: a leakage rule is broken: Broken (3 of 80)." in html
    assert data.comparison.verdict.sentence not in html and "★" not in html
    listed = re.findall(r'<li class="([\w-]+)">', html)
    assert listed == ["broken", "unknown", "held", "by-construction"]
    assert "verdict" not in json.loads(render_json(data))["comparison"]
    assert data.verdict is None and data.comparison.HasField("verdict"), "the data themselves stay"
    assert report(leakage=lines[:2]).verdict is not None


def test_fidelity_stands_beside_its_floor() -> None:
    text = " ".join("".join(Page(render_html(report())).text).split())
    assert "Features are those of lite0, of 64 pixels" in text
    assert "real images 40 0.001 1.2 %" in text
    assert "lora-r4 100 0.032 2.5 %" in text
    assert "Fidelity and near copies" not in render_html(report(fidelity=None))


def measured(plain: Fidelity) -> Fidelity:
    """With a value of every measure of all images, and without precision of the only class that is measured."""
    fidelity = Fidelity()
    fidelity.CopyFrom(plain)
    fidelity.measures.extend(MEASURES)
    fidelity.near_copy_distance, fidelity.confidence, fidelity.least_images = 4.5, 0.95, 10
    for number, source in enumerate(fidelity.sources):
        values = [
            MeasuredValue(name=of.name, value=0.5 + number / 10, low=0.25, high=0.75, images=90) for of in MEASURES
        ]
        of_class = [value for value in values if value.name != "precision"]
        source.measured.extend([MeasuredImages(values=values), MeasuredImages(class_name="flat", values=of_class)])
    return fidelity


def test_a_few_measures_stand_beside_the_distance_and_all_are_folded_by_class() -> None:
    plain = report()
    assert "All measures" not in render_html(plain), "as of earlier versions"
    class_names = ("flat", *plain.class_names[1:])
    html = render_html(dataclasses.replace(plain, fidelity=measured(plain.fidelity), class_names=class_names))
    text = " ".join("".join(Page(html).text).split())
    assert "Images Compared Distance Precision Recall Right class Near copies real images 40" in text
    assert "real images 40 0.001 50.0 % 50.0 % 50.0 % 1.2 %" in text
    assert "lora-r4 100 0.032 60.0 % 60.0 % 60.0 % 2.5 %" in text
    folded = text[text.index("All measures, of all images and by class, with intervals") :]
    assert "In brackets stand 95 % intervals" in folded and "fewer than 10 images" in folded
    assert all(measure.label in folded and measure.sentence in folded for measure in MEASURES)
    interval, share = "0.500 (0.250 to 0.750)", "50.0 % (25.0 % to 75.0 %)"
    assert f"real images all {interval} {interval} {share} {share} {interval}" in folded
    assert f"real images flat {interval} {interval} – {share} {interval}" in folded
    assert folded.index("lora-r4 all") < folded.index("real images flat"), "what compares stands together"


def test_the_images_nearest_to_a_train_image_are_shown_beside_it() -> None:
    plain = report()
    pairs = (NearPair("lora-r4", "flat", png(10), png(20), 1.5), NearPair("lora-r4", "flat", png(30), png(40), 12.25))
    html = render_html(dataclasses.replace(plain, fidelity=measured(plain.fidelity), near_pairs=pairs))
    text = " ".join("".join(Page(html).text).split())
    assert "below 4.50 it counts as a near copy. lora-r4 1.50 12.2" in text
    assert html.count("The train image nearest to it by its features") == 2
    assert "nearest to a train image" not in render_html(plain)


@pytest.mark.parametrize(
    ("value", "text"), [(0.03214, "0.0321"), (57.96, "58.0"), (1234.5, "1,234"), (-0.00123, "−0.0012"), (0.0, "0.0000")]
)
def test_measures_are_told_to_three_digits(value: float, text: str) -> None:
    assert formatting.measured(value, is_share=False) == text
    assert formatting.measured(0.5, is_share=True) == "50.0 %"


def test_children_stand_beside_what_they_begin_from() -> None:
    plain = report()
    assert "Near their own image" not in render_html(plain) and "child of" not in render_html(plain)
    fidelity = Fidelity()
    fidelity.CopyFrom(plain.fidelity)
    fidelity.sources[1].near_source_share, fidelity.sources[1].source_distance = 0.31, 0.8214
    example = SyntheticExample(png(10), png(20), 3.25, (png(77),))
    galleries = tuple(dataclasses.replace(one, examples=(example,)) for one in plain.galleries)
    html = render_html(report(fidelity=fidelity, galleries=galleries))
    text = " ".join("".join(Page(html).text).split())
    assert "real images 40 0.001 1.2 % – –" in text
    assert "lora-r4 100 0.032 2.5 % 31.0 % 0.82" in text
    assert "lora-r4: source above, then synthetic, nearest other real below" in text
    assert "stands under these, and its neighbour is the nearest of the others" in text
    assert html.count("A real train image that the synthetic one is a child of") == len(galleries)


def test_a_preset_is_named_with_what_differs_from_its_paper() -> None:
    preset = Preset(
        name="da-fusion",
        variant="paper",
        title="DA-Fusion",
        citation="Trabucco et al. 2023",
        sections=("adapters[0]", "mixtures"),
        image_sets=("lora-r4",),
        changes=(f"mixtures.mode is {NASTY}.",),
        deviations=("The base model is the study's.",),
        assumptions=("There are 50 steps.",),
    )
    data = report(presets=(preset,))
    text = " ".join("".join(Page(render_html(data)).text).split())
    assert "da-fusion, variant paper, in adapters[0], mixtures (image sets: lora-r4)." in text
    assert "Set by the study: mixtures.mode is" in text and "Assumed: There are 50 steps." in text
    assert json.loads(render_json(data))["presets"][0]["deviations"] == ["The base model is the study's."]
    assert "Presets" not in render_html(report()) and NASTY not in render_html(data)


def test_what_the_base_model_cannot_show_is_a_banner_over_the_verdict() -> None:
    data = report(autoencoder_checks=(check(LOST, "the colour is lost; use another"),))
    html = render_html(data)
    banner = html.index(
        "<strong>THE BASE MODEL IS NOT FIT FOR THESE IMAGES.</strong>\nThe colour is lost; use another.\n"
    )
    assert banner < html.index(data.verdict_sentence)
    text = " ".join("".join(Page(html).text).split())
    assert "a mean PSNR of 23.8 dB (images of nothing but each one’s mean colour: 15.5 dB), and 4 % of their " in text
    assert "colour (mean chroma C*ab 18.3 before, 0.7 after). Better no image" in text
    [said] = json.loads(render_json(data))["autoencoder_checks"]
    assert said["warnings"] == ["the colour is lost; use another"]
    assert said["quality"] == dataclasses.asdict(LOST)


def test_of_images_that_come_back_well_there_is_no_banner() -> None:
    data = report(autoencoder_checks=(check(ReconstructionQuality(32, 41.1, 17.2, 0.0, 0.0)),))
    html = render_html(data)
    assert "NOT FIT" not in html
    text = " ".join("".join(Page(html).text).split())
    assert "a mean PSNR of 41.1 dB (images of nothing but each one’s mean colour: 17.2 dB). Better no image" in text
    assert json.loads(render_json(data))["autoencoder_checks"][0]["warnings"] == []


def test_the_distance_to_what_comes_back_is_shown_with_its_interval_and_network() -> None:
    measured = replace(LOST, kid=0.814, kid_low=0.702, kid_high=0.926, kid_by_chance=0.031, feature_network="some net")
    text = " ".join("".join(Page(render_html(report(autoencoder_checks=(check(measured),)))).text).split())
    assert (
        "0.7 after). Their kernel inception distance to what comes back is 0.81 (95 % interval 0.70 to 0.93; chance "
        "gives up to 0.03), on features of some net. Better no image of its generator can be."
    ) in text
    assert "kernel inception distance to what comes back" not in render_html(report(autoencoder_checks=(check(LOST),)))


def test_each_autoencoder_is_told_apart_and_one_that_was_not_measured_is_said() -> None:
    html = render_html(report(autoencoder_checks=(check(LOST), check(None, base_model="x/y@1", image_size=512))))
    text = " ".join("".join(Page(html).text).split())
    assert "Of 32 train images the autoencoder (builtin, 64 pixels) leaves a mean PSNR" in text
    assert "What the autoencoder (x/y@1, 512 pixels) leaves of these images is not known" in text


def test_what_an_import_left_out_is_shown() -> None:
    data = report()
    row = "alpha: 2 files, not an image (alpha/<b>.txt, alpha/c)"
    shown = replace(data, dataset=replace(data.dataset, left_out=(row,)))
    assert "Left out of the dataset" not in render_html(data)
    assert "alpha: 2 files, not an image (alpha/&lt;b&gt;.txt, alpha/c)" in render_html(shown)
    assert json.loads(render_json(shown))["dataset"]["left_out"] == [row]


def test_the_same_data_give_the_same_bytes() -> None:
    for render in (render_html, render_json, render_run_json, render_csv):
        assert render(report()) == render(report())


def test_json_holds_everything_but_the_images() -> None:
    data = report()
    values = json.loads(render_json(data))
    assert values["report_version"] == 2
    assert len(values["trials"]) == len(data.trials)
    assert values["comparison"]["mixtures"][1]["difference"]["mean"] == pytest.approx(0.01)
    image = values["galleries"][0]["examples"][0]["png"]
    assert image["bytes"] == len(png(10)) and len(image["sha256"]) == 64


def test_times_and_costs_are_apart_from_results() -> None:
    data = report()
    values = json.loads(render_run_json(data))
    assert values["created_at"] == "2025-11-22T10:42:00+00:00"
    assert len(values["costs"]) == len(data.costs)
    later = replace(
        data,
        study=replace(data.study, created_at=data.study.created_at.replace(year=2031)),
        costs=tuple(replace(cost, seconds=cost.seconds + 1) for cost in data.costs),
        adapters=tuple(replace(adapter, seconds=adapter.seconds + 1) for adapter in data.adapters),
    )
    assert render_run_json(later) != render_run_json(data)
    assert render_json(later) == render_json(data)
    assert render_csv(later) == render_csv(data)
    broken = replace(data, costs=(replace(data.costs[0], seconds=float("nan")),))
    with pytest.raises(ValueError, match="JSON compliant"):
        render_run_json(broken)


def test_csv_has_a_row_for_each_trial_and_a_column_for_each_metric() -> None:
    data = report(class_names=("round, flat", 'spin"dle'))
    rows = list(csv.DictReader(io.StringIO(render_csv(data))))
    assert len(rows) == len(data.trials) == 30
    assert [row["seed"] for row in rows[:3]] == ["0", "1", "2"]
    assert rows[0]["key"] == "real" and rows[0]["image_set"] == "" and rows[0]["ratio"] == "0.0"
    assert rows[0]["balanced_accuracy"] == "0.6" and rows[0]["auroc"] == ""
    assert rows[3]["label"] == "append 10 %" and rows[3]["synthetic_images"] == "25"
    assert rows[0]["recall: round, flat"] == "0.6" and rows[0]['images: spin"dle'] == "10"
    assert json.loads(rows[0]["confusion"]) == [[6, 4], [4, 6]]


def test_tables_sum_and_average_over_seeds() -> None:
    data = report()
    rows = tables.confusion_rows(data, "real")
    assert [row.counts for row in rows] == [(19, 11), (11, 19)]
    assert rows[0].shares == pytest.approx((19 / 30, 11 / 30))
    recall = tables.recall_rows(data, "append-0.25@lora-r4")[0]
    assert (recall.real, recall.chosen) == pytest.approx((1.9 / 3, 0.8))
    row = tables.mixture_rows(data)[0]
    accuracy, auroc = row.metrics[0], row.metrics[3]
    assert accuracy.mean == pytest.approx(1.9 / 3) and accuracy.deviation == pytest.approx(0.1 / 3**0.5)
    assert (auroc.mean, auroc.deviation) == (None, None)
    assert tables.spread([0.5]).deviation is None


def test_a_metric_of_the_evaluation_is_shown_without_a_word_here() -> None:
    data = report()
    for trial in data.trials:
        trial.test_metrics["kappa"] = 0.4321
    more = replace(data, metrics=(*data.metrics, Metric(name="kappa", label="Cohen's kappa", larger_is_better=True)))
    assert "Cohen&#39;s kappa" in render_html(more) and "0.432" in render_html(more)
    assert next(csv.DictReader(io.StringIO(render_csv(more))))["kappa"] == "0.4321"
    assert json.loads(render_json(more))["metrics"][-1]["name"] == "kappa"


def test_the_ratio_axis_is_linear_where_there_is_room_and_says_where_it_is_not() -> None:
    roomy, crowded = compared([0.1, 0.25, 0.5]), compared([0.01, 0.02, 5.0])
    assert "not to scale" not in charts.ratio_curve(roomy, 920)
    assert "not to scale" in charts.ratio_curve(crowded, 920)


def test_a_far_synthetic_only_leaves_the_other_points_their_room() -> None:
    def spans(markup: str) -> list[str]:
        return re.findall(r'text-anchor="end">(\d+) %<', markup)

    near = spans(charts.ratio_curve(compared(synthetic_only=None), 920))
    far = charts.ratio_curve(compared(synthetic_only=0.2), 920)
    assert spans(far) == near
    assert "20.0 %" in far
    assert "\u221260.0 (\u221262.0 to \u221258.0)" in charts.forest_plot(compared(synthetic_only=0.2), 920)


def test_an_adapter_says_its_loss_on_held_out_images_and_which_weights_were_kept() -> None:
    plain = report()
    adapter = replace(
        plain.adapters[0],
        held_out=(LossPoint(160, 0.31), LossPoint(320, 0.25), LossPoint(480, 0.28)),
        images_seen=320,
    )
    html = render_html(replace(plain, adapters=(adapter, *plain.adapters[1:])))
    assert "0.28, lowest 0.25 after 320 images seen" in html
    assert "as after 320 images seen" in html
    assert "Loss on held-out train images" not in render_html(plain)


def test_pictures_of_a_training_stand_by_class_in_the_order_of_images_seen() -> None:
    plain = report()
    times = tuple(Previews(seen, (b"one%d" % seen, b"two%d" % seen)) for seen in (1600, 3200))
    adapter = replace(plain.adapters[0], previews={"round": times, "flat": times[1:]})
    html = render_html(replace(plain, adapters=(adapter, *plain.adapters[1:])))
    assert html.count("What adapters made as they learned") == 1
    shown = re.findall(rf"Picture (\d) of class (\w+) by {re.escape(adapter.name)} after ([\d,]+) images seen", html)
    assert shown == [
        ("1", "round", "1,600"),
        ("2", "round", "1,600"),
        ("1", "round", "3,200"),
        ("2", "round", "3,200"),
        ("1", "flat", "3,200"),
        ("2", "flat", "3,200"),
    ]
    assert "What adapters made" not in render_html(plain)


def test_a_constant_loss_is_a_flat_line() -> None:
    svg = charts.loss_curve([LossPoint(0, 0.5), LossPoint(0, 0.5)], 270)
    assert "nan" not in svg and svg.count("0.5") >= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formatting.duration(None), "\u2013"),
        (formatting.duration(7500.0), "2 h 5 min"),
        (formatting.points(-0.0123), "\u22121.2"),
        (formatting.points(-0.0004), "0.0"),
        (formatting.interval_points(Estimate(low=-0.003, high=0.039)), "\u22120.3 to +3.9"),
        (formatting.percent(0.8129), "81.3 %"),
        (formatting.ratio(0.07), "7"),
        (formatting.ratio(1 / 3), "33.3"),
        (formatting.ratio(10.0), "1000"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text == expected


def test_colours_have_contrast_in_light_and_dark() -> None:
    style = Path(charts.__file__).with_name("style.css.j2").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in style.split(":root")[1:3]]
    for theme in themes:
        for name in ("ink", "quiet", "link", "s0", "s1", "s2", "s3", "s4", "s5", "control"):
            assert contrast(theme[name], theme["page"]) >= 4.5, name
        for name in ("ink", "quiet"):
            assert contrast(theme[name], theme["raised"]) >= 4.5, name
        for name in ("good", "bad", "even", "open"):
            assert contrast(theme["on-badge"], theme[name]) >= 4.5, name
        assert contrast(theme["alarm"], theme["alarm-page"]) >= 4.5
        assert contrast(theme["notice"], theme["notice-page"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_reports_need_no_heavy_package() -> None:
    heavy = "{'torch', 'ray', 'numpy', 'scipy'}"
    code = f"import sys, synthmix.study_control.report; print({heavy} & set(sys.modules))"
    services = Path(charts.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=services, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
