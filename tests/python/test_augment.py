"""Augmentation: what it does to an image, and that it depends on seed, epoch and sample alone."""

import numpy as np
import pytest

import evenflow as ef
from evenflow.data.augment import Augment

STRONGEST = Augment(shift=0.1, flip=True, rotation=15.0, zoom=0.1, shear=0.02)
"""Level 2 of Glow's code."""


def test_augmented_training_resumes_exactly(pictures, tmp_path):
    settings = dict(batch_size=12, seed=3, settings=ef.Settings(augment=STRONGEST))
    whole, part = (ef.NICE((6, 5, 3), hidden=(8,)) for _ in range(2))
    whole.fit(pictures, steps=14, **settings)
    part.fit(pictures, steps=6, checkpoint=tmp_path / "m.safetensors", **settings)
    again = ef.load(tmp_path / "m.safetensors")
    again.fit(pictures, steps=14, checkpoint=tmp_path / "m.safetensors", resume=True, **settings)
    assert np.array_equal(again.params, whole.params)
    with pytest.raises(ef.ConfigError):
        again.fit(pictures, steps=14, checkpoint=tmp_path / "m.safetensors", resume=True, batch_size=12,
                  seed=3)


def test_augment_does_nothing_by_default(pictures):
    assert np.array_equal(Augment()(pictures, 0, 0, np.arange(40)), pictures)


def test_augment_flips_half(pictures):
    images, index = np.tile(pictures, (50, 1, 1, 1)), np.arange(2000)
    out = Augment(flip=True)(images, 1, 0, index)
    flipped = [np.array_equal(a, b[:, ::-1]) for a, b in zip(out, images)]
    same = [np.array_equal(a, b) for a, b in zip(out, images)]
    assert all(np.logical_xor(flipped, same)) and np.mean(flipped) == pytest.approx(0.5, abs=0.05)
    other = Augment(flip=True)(images, 1, 1, index)
    assert not np.array_equal(out, other)


def test_augment_depends_on_the_sample_alone(pictures):
    augment, index = STRONGEST, np.array([31, 4, 8])
    whole = augment(pictures, 7, 2, np.arange(40))
    assert np.array_equal(augment(pictures[index], 7, 2, index), whole[index])
    assert not np.array_equal(augment(pictures, 8, 2, np.arange(40)), whole)


@pytest.mark.parametrize("axis, largest", [(0, 2), (1, 4)])
def test_augment_shifts_by_whole_pixels(axis, largest):
    place = np.indices((20, 40))[axis]
    ramp = np.broadcast_to(place[..., None].astype(np.uint8), (200, 20, 40, 1))
    out = Augment(shift=0.1)(np.ascontiguousarray(ramp), 0, 0, np.arange(200))[..., 0]
    shifts = out[:, 10, 20].astype(int) - place[10, 20]
    assert set(shifts) == set(range(-largest, largest + 1))
    for image, shift in zip(out, shifts):
        assert np.array_equal(image, np.clip(place + shift, 0, place.max()))


def sizes(images):
    """Heights and widths of what is not black."""
    white = images[..., 0] > 0
    return white.any(2).sum(1), white.any(1).sum(1)


def test_augment_zooms_height_and_width_apart():
    square = np.zeros((200, 40, 40, 1), np.uint8)
    square[:, 10:30, 10:30] = 255
    heights, widths = sizes(Augment(zoom=0.5)(square, 0, 0, np.arange(200)))
    for size in (heights, widths):
        assert size.min() < 15 and size.max() > 35
    assert np.mean(heights != widths) > 0.5


def test_augment_shears():
    """By an angle a: a line across an image rises by sin(a), and a column is as wide as 1 / cos(a)."""
    line, column = np.zeros((2, 200, 41, 41, 1), np.uint8)
    line[:, 20], column[:, :, 10:31] = 255, 255
    augment, index = Augment(shear=1.0), np.arange(200)
    rise, widths = sizes(augment(line, 0, 0, index))[0], sizes(augment(column, 0, 0, index))[1]
    angle = np.arcsin((rise - 1) / 40)
    assert rise.min() < 5 and 30 < rise.max() < 1 + 40 * np.sin(1.0) + 1
    assert np.abs(widths - 21 / np.cos(angle)).max() <= 3


def test_augment_turns_about_the_middle():
    image = np.zeros((64, 9, 9, 1), np.uint8)
    image[:, 4, 4] = 255
    out = Augment(rotation=180.0, zoom=0.3, shear=0.3)(image, 0, 0, np.arange(64))
    assert (out[:, 4, 4] == 255).all()
    line = np.zeros((64, 9, 9, 1), np.uint8)
    line[:, 4] = 255
    out = Augment(rotation=90.0)(line, 0, 0, np.arange(64))
    assert len({tuple(image.ravel()) for image in out}) > 10
    assert np.isin(out, (0, 255)).all()


def test_each_change_is_drawn_apart():
    """One tells nothing of another: flip, zoom of height and of width, shear, rotation, shift down and right."""
    index, (half, square, line, dot) = np.arange(400), np.zeros((4, 400, 41, 41, 1), np.uint8)
    half[:, :, :5], square[:, 10:31, 10:31], line[:, 20], dot[:, 20, 20] = 255, 255, 255, 255
    flipped = Augment(flip=True)(half, 0, 0, index)[:, 20, 0, 0] > 0
    heights, widths = sizes(Augment(zoom=0.5)(square, 0, 0, index))
    sheared, turned = (augment(line, 0, 0, index)[:, :18, 40].any(axis=(1, 2))
                       for augment in (Augment(shear=0.5), Augment(rotation=30.0)))
    down, right = np.divmod(Augment(shift=0.3)(dot, 0, 0, index).reshape(400, -1).argmax(axis=1), 41)
    drawn = [flipped, heights > 21, widths > 21, sheared, turned, down > 20, right > 20]
    assert np.abs(np.corrcoef(drawn) - np.eye(7)).max() < 0.2


@pytest.mark.parametrize("make, error", [
    (lambda: Augment(shift=-1.0), ef.ConfigError), (lambda: Augment(flip=1), TypeError),
    (lambda: ef.Settings(augment={"mirror": True}), ef.ConfigError),
    (lambda: ef.Settings(augment=2), TypeError),
    (lambda: ef.NICE(3, hidden=(4,)).fit(np.ones((9, 3)), settings=ef.Settings(augment=Augment(flip=True))), ef.ConfigError)
])
def test_broken_augment(make, error):
    with pytest.raises(error):
        make()
