"""How a training samples images on its way: as image sets are by default. Without torch."""

STEPS, GUIDANCE_SCALE = 25, 2.0
ANSWERS_PER_IMAGE = STEPS * (2 if GUIDANCE_SCALE > 1 else 1)
"""Of the UNet: with guidance it answers to the empty prompt as well."""
