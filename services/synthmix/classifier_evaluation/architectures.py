"""The names of timm's architectures, for front ends, which cannot spend four seconds on importing timm.

architectures.txt has a line for each: its name, `pretrained` if timm knows weights for it, and the hub's repository
that has them, if it is the hub. Run this module to write it anew after a change of timm's version.
"""

import difflib
from functools import cache
from pathlib import Path

from synthmix.service_kit.errors import invalid_field

_FILE = Path(__file__).with_name("architectures.txt")


@cache
def architectures() -> dict[str, bool]:
    """Whether timm knows pretrained weights, by architecture."""
    return {name: rest[:1] == ["pretrained"] for name, *rest in _lines()}


@cache
def weight_repositories() -> dict[str, str]:
    """The hub's repository that has an architecture's weights, by architecture, for those that have one."""
    return {name: rest[1] for name, *rest in _lines() if len(rest) == 2}


def _lines() -> list[list[str]]:
    return [line.split() for line in _FILE.read_text().splitlines()]


def check_architecture(name: str, *, pretrained: bool) -> None:
    """Raises InvalidArgument, with the nearest name, if timm has no such architecture or no weights of it."""
    if name not in architectures():
        raise invalid_field(
            "evaluation.classifier.architecture",
            name,
            "is not an architecture of timm",
            f"did you mean {nearest_names(name)}?",
            reason="UNKNOWN_ARCHITECTURE",
        )
    if pretrained and not architectures()[name]:
        raise invalid_field(
            "evaluation.classifier.pretrained",
            pretrained,
            f"cannot be: timm has no weights for {name}",
            f"use {trained_one_like(name)}, or set it to false",
            reason="NO_PRETRAINED_WEIGHTS",
        )


def nearest_names(name: str) -> str:
    """The architectures that a name may be meant as."""
    return " or ".join(difflib.get_close_matches(name, architectures(), n=3, cutoff=0.5) or ["tf_efficientnet_lite0"])


def trained_one_like(name: str) -> str:
    """An architecture that has trained weights, as near as can be to one that has none."""
    trained = [other for other, has_weights in architectures().items() if has_weights]
    # timm puts the weights' origin first: efficientnet_b7 has none, tf_efficientnet_b7 has Google's.
    similar = sorted((other for other in trained if name in other), key=len)
    return (similar or difflib.get_close_matches(name, trained, n=1, cutoff=0))[0]


def timm_architectures() -> str:
    """What architectures.txt must hold with the installed timm."""
    import timm

    lines = []
    for name in timm.list_models():
        words = [name]
        if timm.is_model_pretrained(name):
            config = timm.get_pretrained_cfg(name)
            words += ["pretrained", *filter(None, [config and config.hf_hub_id])]
        lines.append(" ".join(words) + "\n")
    return "".join(lines)


if __name__ == "__main__":
    _FILE.write_text(timm_architectures())
