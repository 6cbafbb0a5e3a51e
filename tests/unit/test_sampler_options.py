"""The samplers that there are, as the documentation lists them."""

from pathlib import Path

from synthmix.image_synthesis.sampler_options import OPTIONS, has_option
from synthmix.latent_diffusion.schedulers import NOT_OFFERED, SCHEDULERS

README = Path(__file__).resolve().parents[2] / "services" / "README.md"


def test_the_documentation_lists_every_sampler_with_what_it_can_do() -> None:
    yes = {True: "yes", False: "no"}
    rows = [
        f"| `{name}` | {yes[one.zero_terminal_snr]} | {yes[one.image_to_image]} | {yes[one.draws_noise]} | "
        f"{['once', 'twice'][one.answers - 1]} | "
        f"{', '.join(f'`{option}`' for option in OPTIONS if has_option(one, option)) or 'none'} |"
        for name, one in SCHEDULERS.items()
    ]
    assert "\n".join(rows) in README.read_text()


def test_what_is_not_offered_says_why() -> None:
    assert all(len(reason.split()) > 4 and not reason.endswith(".") for reason in NOT_OFFERED.values())
