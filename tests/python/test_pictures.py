"""Folders of pictures as people have them, what commands make of them, and pictures that are written."""

import json
import os

import numpy as np
import pytest

import evenflow as ef
from evenflow import plot
from evenflow.cli import main

image = pytest.importorskip("PIL.Image")
SMALL = ["--levels", "1", "--depth", "1", "--hidden", "4", "--steps", "2", "--quiet"]


def write(path, shape=(8, 8, 3), seed=0):
    """A picture of noise in a file, and its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def colour(tmp_path):
    """A run that was trained on pictures in two classes, with the label, from a relative path."""
    for i in range(30):
        write(tmp_path / "photos" / "ab"[i % 2] / f"{i:02}.png", seed=i)
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert main(["train", "photos", *SMALL, "--conditional", "--valid", "0.3", "--out", "run"]) == 0
    finally:
        os.chdir(before)
    return tmp_path / "run"


# Folders

def test_pictures_of_a_class_in_subfolders(tmp_path):
    write(tmp_path / "cat" / "1.png")
    write(tmp_path / "bird" / "2023" / "may" / "the" / "4th" / "1.png")
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path)
    (tmp_path / "bird" / "2023").rename(tmp_path / "bird" / ".2023")
    assert ef.data.load(tmp_path).classes == ["cat"]


@pytest.mark.parametrize("held_out", [["test"], ["val"], ["valid"], ["validation", "Test"]])
def test_parts(tmp_path, held_out):
    x = [write(tmp_path / "train" / f"{i}.png", seed=i) for i in range(3)]
    y = [write(tmp_path / name / "0.png", seed=9) for name in held_out]
    (tmp_path / "notes").mkdir()
    data = ef.data.load(tmp_path)
    assert np.array_equal(data.train, x) and np.array_equal(data.test, y)
    assert data.classes == [] and data.train_labels is None and data.test_labels is None
    stray = tmp_path / "extra" / "0.png"
    for path in (stray, tmp_path / "0.png"):
        write(path)
        with pytest.raises(ef.IoError):
            ef.data.load(tmp_path)
        path.unlink()


def test_parts_with_classes(tmp_path):
    for name in ("train/cat/1", "train/cat/2", "train/dog/1", "val/dog/1", "val/emu/1"):
        write(tmp_path / f"{name}.png")
    data = ef.data.load(tmp_path)
    assert data.classes == ["cat", "dog", "emu"]
    assert data.train_labels.tolist() == [0, 0, 1] and data.test_labels.tolist() == [1, 2]
    for name in ("dog", "emu"):
        (tmp_path / "val" / name / "1.png").rename(tmp_path / "val" / f"{name}.png")
    data = ef.data.load(tmp_path)
    assert data.train_labels.tolist() == [0, 0, 1] and data.test_labels is None and len(data.test) == 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_set_upright(tmp_path, orientation):
    ops = pytest.importorskip("PIL.ImageOps")
    note = image.Exif()
    note[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    for ending in ("jpg", "png", "tif", "webp"):
        path = tmp_path / ending / f"1.{ending}"
        path.parent.mkdir()
        image.fromarray(pixels).save(path, exif=note)
        with image.open(path) as picture:
            wanted = np.asarray(ops.exif_transpose(picture))
        assert np.array_equal(ef.data.load(path.parent).train[0], wanted)
        assert np.array_equal(ef.data.load(path.parent, crop=4).train[0],
                              wanted[wanted.shape[0] // 2 - 2:, wanted.shape[1] // 2 - 2:][:4, :4])


def test_channels(tmp_path):
    grey, rgb = write(tmp_path / "grey" / "1.png", (8, 8)), write(tmp_path / "rgb" / "1.png")
    assert np.array_equal(ef.data.load(tmp_path / "grey", channels=3).train[0], np.stack(3 * [grey], axis=-1))
    assert np.array_equal(ef.data.load(tmp_path / "rgb", channels=1).train[0, ..., 0],
                          np.asarray(image.fromarray(rgb).convert("L")))
    with pytest.raises(ef.ConfigError):
        ef.data.load(tmp_path / "rgb", channels=5)


# Commands

def test_other_pictures_have_the_channels_of_the_model(tmp_path, colour, capsys):
    grey = [write(tmp_path / "grey" / "a" / f"{i}.png", (8, 8), seed=i) for i in range(4)]
    flow = ef.load(colour / "model.safetensors")
    wanted = flow.bits_per_dim(np.stack([np.stack(3 * [x], axis=-1) for x in grey]), label=np.zeros(4, int)).mean()
    capsys.readouterr()
    assert main(["eval", str(colour), str(tmp_path / "grey"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_dim"] == pytest.approx(wanted, rel=1e-5)
    one = tmp_path / "one"
    assert main(["train", str(tmp_path / "grey"), *SMALL, "--pad", "12", "--valid", "0.3", "--out", str(one)]) == 0
    assert main(["eval", str(one), str(tmp_path / "photos")]) == 0


def test_pictures_of_a_class_that_the_run_lacks(tmp_path, colour, capsys):
    write(tmp_path / "new" / "b" / "0.png")
    write(tmp_path / "new" / "c" / "0.png")
    assert main(["eval", str(colour), str(tmp_path / "new")]) == 2
    assert "[data] expected labels out of a, b, got 'c'" in capsys.readouterr().err
    (tmp_path / "new" / "c").rename(tmp_path / "new" / "a")
    assert main(["eval", str(colour), str(tmp_path / "new")]) == 0


def test_edit_along_any_of_several_attributes(tmp_path, capsys):
    """Of pictures as CelebA has them."""
    marks = ["1 -1", "-1 1", "-1 -1", "1 1"]
    for i in range(4):
        write(tmp_path / "faces" / f"{i}.png", seed=i)
    lines = ["4", "Bright Odd", *(f"{i}.png {mark}" for i, mark in enumerate(marks))]
    (tmp_path / "faces" / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    flow = ef.NICE((8, 8, 3), hidden=(4,))
    flow.init(np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8))
    flow.save(tmp_path / "m")
    assert main(["edit", str(tmp_path / "m"), str(tmp_path / "faces"), "--size", "8", "--positive", "Bright", "Odd",
                 "--strengths", "0", "--out", str(tmp_path / "e.npy"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["positive"], result["negative"]) == (3, 1)


def test_the_data_are_found_from_elsewhere(tmp_path, colour, capsys, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["eval", "../run"]) == 0
    assert main(["resume", "../run", "--steps", "3", "--quiet"]) == 0
    (tmp_path / "photos").rename(tmp_path / "gone")
    assert main(["eval", "../run"]) == 2
    assert "there is no file or folder " in capsys.readouterr().err


# How long an average lags


# What is written

@pytest.mark.parametrize("channels, mode", [(2, "LA"), (4, "RGBA")])
def test_pictures_with_alpha(tmp_path, channels, mode):
    x = np.random.default_rng(0).integers(0, 256, (20, 8, 8, channels), np.uint8)
    plot.save_grid(x[:1], tmp_path / "1.png", scale=1)
    with image.open(tmp_path / "1.png") as picture:
        assert picture.mode == mode and np.array_equal(np.asarray(picture), x[0])
    np.save(tmp_path / "x.npy", x)
    assert main(["train", str(tmp_path / "x.npy"), *SMALL, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "samples.png").exists()
    assert main(["sample", str(tmp_path / "run"), "--n", "2", "--out", str(tmp_path / "s")]) == 0
    with pytest.raises(ef.IoError):
        plot.save_grid(x[:1], tmp_path / "x.jpg")
