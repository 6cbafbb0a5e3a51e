"""The one schedule of learning rates: a linear warm-up, then half a cosine."""

import math


def learning_rate_share(
    step: int, steps: int, *, warmup_steps: int, decline_from: int, final_share: float = 0.0
) -> float:
    """What a step takes of the peak learning rate, 0 to 1 (Loshchilov and Hutter, 2017, arXiv:1608.03983, equation 5).

    Args:
        step: Counted from 0.
        steps: Of the whole training.
        warmup_steps: The last of these is the first to take all of the peak; 1 or more.
        decline_from: The step that the cosine begins at: `warmup_steps`, which takes all of the peak once more, or
            `warmup_steps - 1`.
        final_share: What the step after the last one would take.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - decline_from) / max(1, steps - decline_from)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))
