"""Prompts: one for all classes, with {label} where the class is named."""

from service_kit.errors import invalid_field

LONGEST_PROMPT_CHARACTERS = 1000


def check_prompt(field: str, prompt: str) -> None:
    """A prompt without {label} would ask for every class in the same words."""
    if "{label}" not in prompt:
        raise invalid_field(
            field,
            prompt,
            "doesn't name the class",
            "put {label} where the class belongs, such as 'a microscopy image of a {label} cell'",
            reason="PROMPT_WITHOUT_LABEL",
        )
    if len(prompt) > LONGEST_PROMPT_CHARACTERS:
        raise invalid_field(
            field,
            prompt,
            f"has {len(prompt)} characters",
            f"use at most {LONGEST_PROMPT_CHARACTERS}",
            reason="OUT_OF_RANGE",
        )


def prompt_for(prompt: str, label: str) -> str:
    """The prompt of one class."""
    return prompt.replace("{label}", label)
