"""The eight symmetries of the square. Cells have no upright orientation: every one is as real as the first."""

import numpy as np

SYMMETRIES = 8


def symmetry(images: np.ndarray, view: int) -> np.ndarray:
    """All images in one view: turned by view % 4 quarters, and then mirrored if the view is 4 or more.

    Args:
        images: (images, side, side, ...).
        view: 0 to 7; 0 is the images as they are.
    """
    turned = np.rot90(images, view % 4, axes=(1, 2))
    return turned[:, :, ::-1] if view >= 4 else turned


def symmetries(images: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Each image in a view of its own.

    Args:
        images: (images, side, side, ...).
        views: (images,), 0 to 7.
    """
    seen = np.empty_like(images)
    for view in np.unique(views):
        seen[views == view] = symmetry(images[views == view], int(view))
    return seen
