"""Reports as one HTML page, as JSON and as CSV."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from datetime import datetime

import jinja2
from google.protobuf.message import Message

from synthmix.service_kit import message_json, quantities
from synthmix.study_control.report import charts, formatting, tables
from synthmix.study_control.report.data import ReportData

# Raised when a field of the JSON or a column of the CSV changes its meaning.
REPORT_VERSION = 2
WIDE_PX = 920
NARROW_PX = 340
CARD_PX = 270


def render_html(data: ReportData) -> str:
    """The report as one page that needs nothing else: no script, no file, no network.

    Every text of `data` is escaped. The same data give the same bytes. Example images are shown 90 pixels wide: larger
    ones make the page heavier.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("percent", "interval_percent", "points", "interval_points", "decimal", "count", "duration", "moment")
    environment.filters.update({name: getattr(formatting, name) for name in names})
    environment.filters.update(plural=quantities.plural, png=_data_uri, measured=formatting.measured)
    mixtures = {result.mixture.key: result for result in data.comparison.mixtures}
    chosen = mixtures[data.verdict.key] if data.verdict else None
    return environment.get_template("template.html.j2").render(
        data=data,
        comparison=data.reported,
        charts=charts,
        tables=tables,
        chosen=chosen,
        controls=tables.controls_of(data, chosen) if chosen else [],
        wide_px=WIDE_PX,
        narrow_px=NARROW_PX,
        card_px=CARD_PX,
    )


def render_json(data: ReportData) -> str:
    """The results as JSON: all of `data` but what the other files have, each example image replaced by its sha256.

    It does not tell when or how fast the study ran: the same study, run again or interrupted, gives the same bytes.
    Raises ValueError if a number is not finite.
    """
    values = {"report_version": REPORT_VERSION, **dataclasses.asdict(data), "comparison": data.reported}
    del values["costs"], values["study"]["created_at"], values["provenance"]["software"]
    search = values.pop("search")
    if search is not None:
        values["search"] = {key: search[key] for key in ("sentence", "chosen", "score", "candidates", "tried")}
    for made in (*values["adapters"], *values["image_sets"]):
        del made["seconds"], made["gpu_seconds"]
    return _json(values)


def render_run_json(data: ReportData) -> str:
    """When, how long and with which software the study ran, as JSON. Raises ValueError if a number is not finite."""
    return _json(
        {
            "report_version": REPORT_VERSION,
            "study": data.study.id,
            "created_at": data.study.created_at,
            "costs": [dataclasses.asdict(cost) for cost in data.costs],
            "software": data.provenance.software,
        }
    )


def render_search_json(data: ReportData) -> str:
    """All that a study's search did, with its times, as JSON. Raises ValueError if a number is not finite."""
    assert data.search is not None, "the study has no search"
    return _json({"report_version": REPORT_VERSION, "study": data.study.id, "search": dataclasses.asdict(data.search)})


def render_csv(data: ReportData) -> str:
    """The trials as CSV: a heading and one row each with every metric, by mixture as in the results, then by seed.

    Precision, recall and test images have a column for each class; the confusion matrix is one column of JSON.
    """
    rows = []
    for result in data.comparison.mixtures:
        for trial in tables.trials_of(data, result.mixture.key):
            training = trial.training
            row = {
                "study": data.study.name,
                **message_json.to_value(result.mixture),
                "ratio": result.mixture.ratio if result.mixture.HasField("ratio") else None,
                "trial": trial.trial,
                "seed": training.seed,
                "real_images": training.real_images,
                "synthetic_images": training.synthetic_images,
                "optimizer_steps": training.optimizer_steps,
                "best_epoch": training.best_epoch,
                **{metric.name: trial.test_metrics.get(metric.name) for metric in data.metrics},
            }
            for one in trial.classes:
                row |= {
                    f"precision: {one.label}": one.precision,
                    f"recall: {one.label}": one.recall if one.HasField("recall") else None,
                    f"images: {one.label}": one.images,
                }
            row["confusion"] = json.dumps([list(one.predicted_as) for one in trial.classes])
            rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _data_uri(png: bytes) -> str:
    """A PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _json(values: Mapping[str, object]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False, default=_json_value) + "\n"


def _json_value(value: object) -> object:
    """What JSON has no form for."""
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest(), "bytes": len(value)}
    if isinstance(value, Message):
        return message_json.to_value(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
