"""SynthMix: does adding synthetic images improve my classifier, at which ratio, and how sure can I be?

    from synthmix import Client

    with Client.connect() as client:
        operation = client.submit_study(spec)

Importing this package is cheap: what it names is loaded when it is first used, and torch never is.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synthmix.client.client import Client, GroupRule, PixelRule
    from synthmix.service_kit.errors import SynthMixError

    __version__: str

__all__ = ["Client", "GroupRule", "PixelRule", "SynthMixError", "__version__"]

_HOMES = {
    "Client": "synthmix.client.client",
    "GroupRule": "synthmix.client.client",
    "PixelRule": "synthmix.client.client",
    "SynthMixError": "synthmix.service_kit.errors",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("synthmix")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"  # run from a source tree that was never installed
