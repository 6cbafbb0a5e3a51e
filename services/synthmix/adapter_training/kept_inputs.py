"""What adapters of one worker have in common: encoded images and prompts, which stay in its memory.

Encoding a train part takes seconds, and a study trains one adapter after another on it.
"""

import torch

from synthmix.service_kit.kept_values import KeptValues
from synthmix.service_kit.machine_memory import available_memory_bytes

# Of the memory that is free without what is kept.
KEPT_SHARE = 0.1

INPUTS: KeptValues[tuple[torch.Tensor, ...]] = KeptValues(
    lambda tensors: sum(tensor.nbytes for tensor in tensors),
    lambda kept_bytes: KEPT_SHARE * (available_memory_bytes() + kept_bytes),
)
