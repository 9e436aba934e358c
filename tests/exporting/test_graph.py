"""What stands before and after the network in an exported file."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fcnseg.exporting.graph import resized_images
from fcnseg.exporting.parity import sample_images
from fcnseg.io.images import resize_image
from fcnseg.models.spec import IMAGENET


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1200))
@example(1, 100, 1200)
def test_the_size_that_the_network_sees_is_rounded_exactly(height, width, side):
    assume(max(height, width) <= 100 * min(height, width))  # strips: tests/models/test_spec.py
    expected = tuple(round(Fraction(side * n, min(height, width))) for n in (height, width))
    assert IMAGENET.at(side).network_size((height, width)) == expected


def test_a_program_that_is_saved_computes_the_size(tmp_path):
    """torch.export can save no abs; OpenVINO computes some of them wrongly."""

    class Sized(torch.nn.Module):
        def forward(self, images):
            return images.new_zeros(IMAGENET.at(48).network_size(images.shape[1:3]))

    free = torch.export.Dim.DYNAMIC
    some = torch.zeros(1, 97, 131, 3)
    program = torch.export.export(Sized(), (some,), dynamic_shapes=({1: free, 2: free},))
    torch.export.save(program, tmp_path / "sized.pt2")
    module = torch.export.load(tmp_path / "sized.pt2").module()
    for size, expected in (((97, 131), (48, 65)), ((131, 97), (65, 48)), ((24, 99), (48, 198))):
        assert module(torch.zeros(1, *size, 3)).shape == expected


@pytest.mark.parametrize(
    ("size", "side"),
    [
        ((72, 96), 54),  # 3 of 4: every 16th sum is a half
        ((72, 96), 36),  # half the size: OpenCV rounds halves up
        ((72, 96), 24),
        ((72, 96), 18),
        ((96, 72), 13),
        ((72, 96), 72),
        ((36, 48), 54),
        ((33, 47), 132),
        ((5, 300), 4),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_are_resized_as_infer_does_it(size, side, channels):
    preprocess = IMAGENET.at(side)
    images = np.tile(sample_images((2, *size), seed=side), 2)[..., :channels]
    found = resized_images(torch.from_numpy(images), preprocess).numpy()
    expected = np.stack([resize_image(one, preprocess.network_size(size)) for one in images])
    np.testing.assert_array_equal(found, expected.reshape(found.shape))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 80), st.integers(2, 80), st.integers(1, 120), st.integers(0, 3))
def test_any_size_is_resized_as_infer_does_it(height, width, side, seed):
    preprocess = IMAGENET.at(side)
    image = sample_images((1, height, width), seed=seed)[0]
    found = resized_images(torch.from_numpy(image)[None], preprocess)[0].numpy()
    expected = resize_image(image, preprocess.network_size((height, width)))
    assert found.shape == expected.shape
    different = found != expected
    assert different.mean() < 0.01  # sums that lie on a half but for the last bit of a float
    assert np.abs(found.astype(int) - expected).max() <= 1
