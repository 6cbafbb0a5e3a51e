"""Which layers a base model's parts have, by the headers of its weight files: without torch and without the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.base_model_files import tensor_shapes, weight_files
from synthmix.latent_diffusion.hub import remote_shapes
from synthmix.latent_diffusion.model_folder import ModelFolder
from synthmix.service_kit.adapter_payloads import CLIP_PREFIX

UNET, TEXT_ENCODER = "unet", "text_encoder"
# The text encoder's table of tokens, by its module's name.
EMBEDDING = "embeddings.token_embedding"
_WEIGHT = ".weight"


@dataclass(frozen=True)
class Layer:
    """A linear layer or a convolution.

    Attributes:
        name: Its module's, within its part.
        shape: Of its weights: (outputs, inputs) or (outputs, inputs, height, width).
    """

    name: str
    shape: tuple[int, ...]

    @property
    def outputs(self) -> int:
        return self.shape[0]

    @property
    def channels(self) -> int:
        """Input channels."""
        return self.shape[1]

    @property
    def inputs(self) -> int:
        """Numbers that one output is a sum of: a convolution's channels times the pixels of its kernel."""
        return prod(self.shape[1:])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Height and width of a convolution's; () of a linear layer."""
        return self.shape[2:]

    @property
    def kernel_pixels(self) -> int:
        return prod(self.kernel)


@dataclass(frozen=True)
class PartLayers:
    """The modules of a part, the UNet or the text encoder, that have weights.

    Attributes:
        adaptable: Linear layers and convolutions, in the order of their names.
        others: The names of normalisations and the like, which no adapter takes.
        parameters: How many numbers all of them have, biases as well.
    """

    adaptable: tuple[Layer, ...]
    others: frozenset[str]
    parameters: int = 0


def part_layers(model: BaseModel, part: str, *, field: str) -> PartLayers:
    """The layers of a base model that `resolve` found, whether or not its weights are here.

    Args:
        part: UNET or TEXT_ENCODER.

    Raises:
        InvalidArgument: A weight file can't be read.
        Unavailable: The weights are only at the hub, which can't be asked.
    """
    return _layers(model.digest, ModelFolder(model.folder, field, model.reference, model.elsewhere), part)


@lru_cache(maxsize=16)  # each adapter of a grid asks
def _layers(digest: str, named: ModelFolder, part: str) -> PartLayers:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(named, part):
        shapes |= remote_shapes(named, file) if file in named.elsewhere else tensor_shapes(named, file)
    return layers_of({key.removeprefix(CLIP_PREFIX): shape for key, shape in shapes.items()})


def layers_of(shapes: Mapping[str, tuple[int, ...]]) -> PartLayers:
    """The layers that weights of these names and shapes make."""
    weights = {key.removesuffix(_WEIGHT): shape for key, shape in sorted(shapes.items()) if key.endswith(_WEIGHT)}
    adaptable = tuple(Layer(name, tuple(shape)) for name, shape in weights.items() if len(shape) in (2, 4))
    others = frozenset(weights) - {layer.name for layer in adaptable}
    return PartLayers(adaptable, others, sum(prod(shape) for shape in shapes.values()))
