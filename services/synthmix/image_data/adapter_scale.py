"""How much of an adapter images are made with: what may be scaled. Front ends check it with this, without torch."""

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.service_kit.adapter_payloads import NONE
from synthmix.service_kit.errors import Problems, invalid_field


def check_scale(
    settings: SynthesisSettings,
    adapter: AdapterSettings,
    problems: Problems,
    *,
    field: str,
    what: str = "this adapter",
) -> None:
    """Collects a scale of what changes no weights. `settings` and `adapter` are filled.

    Args:
        field: The path of `settings`.
        what: What the adapter is called.
    """
    if settings.adapter_scale != 1 and adapter.method == NONE:
        problems.found.append(
            invalid_field(
                f"{field}.adapter_scale",
                settings.adapter_scale,
                f"is of what an adapter changes in weights, and {what} is learned class tokens alone",
                "leave it out, or use an adapter of another method",
            )
        )
