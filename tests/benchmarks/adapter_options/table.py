"""The page of what was measured: results/adapter-options.md."""

import json
import statistics
from collections.abc import Sequence

from design import IMAGES_SEEN
from rows import OPTION, RESULTS, Option, Row, by_option, mean, read_rows
from synthmix.service_kit.quantities import duration

PAGE = RESULTS / "adapter-options.md"
FINDINGS = RESULTS / "adapter-options-findings.md"
SEARCHED = RESULTS / "adapter-options-search.json"
COMPARED = RESULTS / "adapter-options-compared.json"

HEAD = """\
# Which adapter is worth its seconds?

`make adapter-options` writes this page; the study is [adapter_options.yaml](../studies/adapter_options.yaml), the rows
are in [adapter-options.csv](adapter-options.csv). Adapters of the built-in base model, on six phenotypes of nuclei that
it never saw (mitocheck), each trained on one thread for the seconds that LoRA of rank 16 on the attention layers needs
for {first} images; how many images the others see in that time is in the table. Figures are means over {seeds} seeds,
with the standard deviation over seeds after ±. *Held-out loss*: of always the same noise, on groups of the train part
that no adapter was trained on. *Class consistency*: the share of 240 images in which a classifier of real train images
sees the class that was asked for; real validation images come to {consistency:.2f}. *KID*: kernel inception distance
from real test images; real train images come to {kid:.2f}. *Near copies*: images that are nearer to a train image than
99 % of the test images are.
"""
COLUMNS = (
    "method",
    "layers",
    "size",
    "parameters",
    "images seen",
    "seconds",
    "held-out loss",
    "class consistency",
    "KID",
    "near copies",
)
SEARCH = """
## A search among them

All {candidates} adapters of the first seed took {full} of worker time, with their images and scores. `search:` with its
defaults, a quarter of that as its budget and `keep: {keep}` took {spent}, tried {tried} of them, and kept:
{kept}. Places are by class consistency, of that seed.
"""
COMPARISON = """
## What they are worth to a classifier

The best and the worst five by class consistency. `tf_efficientnet_lite0`, pretrained, {epochs} epochs, {seeds} seeds,
real images and {ratio:.0%} of synthetic ones on top, in the same number of steps; real images alone come to a balanced
accuracy of {real:.3f}. In brackets the {confidence:.0%} interval over groups and seeds.
"""
COMPARED_COLUMNS = ("method", "layers", "size", "class consistency", "balanced accuracy", "difference from real only")


def write_table() -> None:
    rows = read_rows()
    options = by_option(rows)
    parts = [
        HEAD.format(
            first=f"{IMAGES_SEEN:,}",
            seeds=len({row.seed for row in rows}),
            consistency=mean(rows, "real_class_consistency"),
            kid=mean(rows, "real_kid"),
        ),
        FINDINGS.read_text(encoding="utf-8") if FINDINGS.exists() else "",
        table(COLUMNS, [cells(of_option) for of_option in options.values()]),
        searched() if SEARCHED.exists() else "",
        compared(options) if COMPARED.exists() else "",
    ]
    PAGE.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(rows: Sequence[Row]) -> list[str]:
    option = rows[0].option
    return [
        f"`{option.method}`",
        f"`{option.targets}`" if option.targets else "the UNet itself",
        option.size,
        f"{rows[0].parameters:,}",
        f"{mean(rows, 'images_seen'):,.0f}",
        f"{mean(rows, 'seconds'):.0f}",
        spread(rows, "held_out_loss", 4),
        spread(rows, "class_consistency", 3),
        spread(rows, "kid", 2),
        f"{mean(rows, 'near_copy_share'):.1%}",
    ]


def spread(rows: Sequence[Row], name: str, digits: int) -> str:
    values = [getattr(row, name) for row in rows]
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(rows, name):.{digits}f}{deviation}"


def searched() -> str:
    found = json.loads(SEARCHED.read_text(encoding="utf-8"))
    return SEARCH.format(
        candidates=found["candidates"],
        tried=found["tried"],
        keep=len(found["kept"]),
        full=duration(found["full_seconds"]),
        spent=duration(found["spent_seconds"]),
        kept="; ".join(f"{name} (place {place})" for name, place in zip(found["kept"], found["places"], strict=True)),
    )


def compared(options: dict[Option, list[Row]]) -> str:
    found = json.loads(COMPARED.read_text(encoding="utf-8"))
    of_option = {Option(**{name: mixture[name] for name in OPTION}): mixture for mixture in found["mixtures"]}
    rows = [
        [
            f"`{option.method}`",
            f"`{option.targets}`",
            option.size,
            f"{mean(options[option], 'class_consistency'):.3f}",
            f"{of_option[option]['balanced_accuracy']:.3f}",
            "{difference:+.3f} ({low:+.3f} to {high:+.3f})".format(**of_option[option]),
        ]
        for option in options
        if option in of_option
    ]
    named = {name: found[name] for name in ("epochs", "seeds", "ratio", "confidence")}
    return COMPARISON.format(real=found["real_balanced_accuracy"], **named) + "\n" + table(COMPARED_COLUMNS, rows)
