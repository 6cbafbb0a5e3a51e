"""The measures of fidelity are those of torch-fidelity on the same features."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from synthmix.image_features.neighbourhoods import neighbourhood_measures
from synthmix.image_features.sample_distances import frechet_distance, kernel_distance, products_of


@pytest.mark.parametrize(("made", "real", "width"), [(120, 90, 16), (40, 30, 64)])
def test_measures_are_those_of_torch_fidelity(made: int, real: int, width: int) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.2, 1.0, (made, width)), rng.normal(0.0, 1.2, (real, width))
    products = products_of(one, other)
    ours, theirs = torch.from_numpy(one), torch.from_numpy(other)

    statistics = [fid_features_to_statistics(features) for features in (ours, theirs)]
    frechet = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    # Of fewer images than features they take roots of what should be 0.
    assert frechet_distance(products).value == pytest.approx(frechet, rel=1e-6)

    size = min(made, real)
    whole = {"kid_subsets": 1, "kid_subset_size": size, "verbose": False}
    kid = kid_features_to_metric(ours[:size], theirs[:size], **whole)["kernel_inception_distance_mean"]
    assert kernel_distance(products_of(one[:size], other[:size])).value == pytest.approx(kid)

    neighbourhoods = neighbourhood_measures(products)
    expected = prc_features_to_metric(ours, theirs, verbose=False)
    assert neighbourhoods["precision"].value == pytest.approx(expected["precision"])
    assert neighbourhoods["recall"].value == pytest.approx(expected["recall"])
