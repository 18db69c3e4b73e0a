"""Folders of pictures, and the image sets of the papers in their own files: CIFAR, SVHN, CelebA."""

import io
import tarfile

import numpy as np
import pytest

import evenflow as ef
from evenflow._border.rows import Rows

rng = np.random.default_rng(0)


# Folders

def test_folder_of_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 6, 6, 3), np.uint8)
    for name, picture in zip(("cat/1.png", "cat/2.png", "dog/1.PNG"), pictures):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    for name in ("bird", ".ipynb_checkpoints", "cat/inside"):  # none is a class
        (tmp_path / name).mkdir()
    image.fromarray(pictures[0]).save(tmp_path / ".ipynb_checkpoints" / "1-checkpoint.png")
    data = ef.data.load(tmp_path)
    assert np.array_equal(data.train, pictures)
    assert data.classes == ["cat", "dog"] and np.array_equal(data.train_labels, [0, 0, 1])
    assert ef.data.load(tmp_path, size=4).shape == (4, 4, 3)
    image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "dog" / "2.png")
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path)
    cropped = ef.data.load(tmp_path, size=6).train
    assert np.array_equal(cropped[:3], pictures) and not cropped[3].any()
    (tmp_path / "dog" / "3.png").write_bytes((tmp_path / "dog" / "1.PNG").read_bytes()[:60])
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path, size=6)
    (tmp_path / "dog" / "3.png").unlink()
    for hidden in (tmp_path / "._1.png", tmp_path / "dog" / "._1.png"):
        hidden.write_bytes(b"no picture")
    assert np.array_equal(ef.data.load(tmp_path, size=6).train, cropped)
    image.fromarray(pictures[0]).save(tmp_path / "stray.png")
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path, size=6)


@pytest.fixture
def icons(tmp_path):
    """Five pictures whose left half is red or grey and opaque, the right half transparent but for the last; by name."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "icons"
    folder.mkdir()
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:, :2] = 255, 0, 0, 255
    la = np.zeros((4, 4, 2), np.uint8)
    la[:, :2] = 90, 255
    palette = image.fromarray((rgba[..., 3] == 0).astype(np.uint8))
    palette.putpalette([255, 0, 0, 0, 0, 0])
    image.fromarray(rgba).save(folder / "a_rgba.png")
    image.fromarray(la).save(folder / "b_la.png")
    palette.save(folder / "c_palette.png", transparency=1)
    image.fromarray(rgba[..., :3]).save(folder / "d_key.png", transparency=(0, 0, 0))
    image.fromarray(np.concatenate([rgba[:, :2], rgba[:, :2]], axis=1)).save(folder / "e_opaque.png")
    return folder


@pytest.mark.parametrize("options, colour", [({}, (255, 255, 255)), (dict(background="#0000ff"), (0, 0, 255))])
def test_transparent_pictures(icons, options, colour):
    """What nobody sees is not trained on."""
    data = ef.data.load(icons, **options)
    for x, left in zip(data.train, [(255, 0, 0), (90, 90, 90), *3 * [(255, 0, 0)]]):
        assert (x[:, :2] == left).all()
    assert (data.train[:4, :, 2:] == colour).all() and (data.train[4] == (255, 0, 0)).all()
    with pytest.raises(ef.ConfigError):
        ef.data.load(icons, background="no colour")


def test_channels_are_those_of_the_first_picture(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pictures = rng.integers(0, 256, (2, 6, 6, 3), np.uint8)
    for name, picture in (("1.png", pictures[0, ..., 0]), ("2.png", pictures[1])):
        image.fromarray(picture).save(tmp_path / name)
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path)
    assert ef.data.load(tmp_path, channels=1).shape == (6, 6, 1)
    colours = ef.data.load(tmp_path, channels=3).train
    assert np.array_equal(colours[1], pictures[1]) and (colours[0] == pictures[0, ..., :1]).all()


def test_pictures_are_turned_as_the_camera_was(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((16, 8, 3), np.uint8)
    pixels[8:] = 255
    exif = image.Exif()
    exif[0x0112] = 6
    image.fromarray(pixels).save(tmp_path / "1.jpg", exif=exif, quality=100)
    turned = ef.data.load(tmp_path).train[0]
    assert turned.shape == (8, 16, 3) and turned[:, :7].min() > 200 and turned[:, 9:].max() < 50


def test_pictures_are_cropped_and_decoded_when_used(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    pictures = rng.integers(0, 256, (4, 8, 10, 3), np.uint8)
    for i, picture in enumerate(pictures):
        image.fromarray(picture).save(tmp_path / f"{i}.png")
    assert np.array_equal(ef.data.load(tmp_path, crop=4).train, pictures[:, 2:6, 3:7])
    monkeypatch.setattr("evenflow._border.rows.RESIDENT_BYTES", 0)
    lazy = ef.data.load(tmp_path).train
    assert isinstance(lazy, Rows) and lazy.shape == pictures.shape
    assert np.array_equal(lazy[[3, 0]], pictures[[3, 0]])
    flow = ef.NICE((8, 10, 3), couplings=2, hidden=(8,))
    history = flow.fit(lazy, valid=ef.data.load(tmp_path).split(0.5).test, batch_size=2, epochs=2)
    assert history[-1]["valid_loss"] == -flow.log_prob(ef.data.load(tmp_path).split(0.5).test).mean()
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:-60])
    with pytest.raises(ef.IoError):
        flow.fit(lazy, batch_size=2, epochs=1)
    image.fromarray(pictures[0, :4]).save(tmp_path / "2.png")
    with pytest.raises(ef.IoError):
        lazy[2]
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path, crop=6).train[2]


def test_levels_of_16_bits_are_refused(tmp_path):
    pytest.importorskip("PIL.Image").fromarray(np.full((2, 2), 60_000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path)


# CIFAR

PLANES = rng.integers(0, 256, (10, 3072), np.uint8)
IMAGES = PLANES.reshape(10, 3, 32, 32).transpose(0, 2, 3, 1)
NAMES10, NAMES100 = [f"kind{i}" for i in range(10)], [f"fine{i}" for i in range(100)]


def cifar10():
    record = np.concatenate([np.arange(10, dtype=np.uint8)[:, None], PLANES], axis=1)
    return {**{f"data_batch_{i + 1}.bin": record[2 * i:2 * i + 2].tobytes() for i in range(5)},
            "test_batch.bin": record[:3].tobytes(), "batches.meta.txt": "\n".join(NAMES10).encode() + b"\n\n"}


def cifar100():
    labels = np.stack([np.arange(10), 99 - np.arange(10)], axis=1).astype(np.uint8)
    record = np.concatenate([labels, PLANES], axis=1)
    return {"train.bin": record.tobytes(), "test.bin": record[:3].tobytes(),
            "fine_label_names.txt": "\n".join(NAMES100).encode()}


def write_folder(path, files):
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def write_archive(path, files, folder="cifar-batches/"):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"readme.html": b"text", **files}.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("write", [lambda p, f: write_folder(p / "c", f),
                                   lambda p, f: write_archive(p / "c.tar.gz", f)])
@pytest.mark.parametrize("files, names, labels", [
    (cifar10(), NAMES10, np.arange(10)), (cifar100(), NAMES100, 99 - np.arange(10))])
def test_cifar(tmp_path, write, files, names, labels):
    data = ef.data.load(write(tmp_path, files))
    assert np.array_equal(data.train, IMAGES) and np.array_equal(data.test, IMAGES[:3])
    assert np.array_equal(data.train_labels, labels) and np.array_equal(data.test_labels, labels[:3])
    assert data.classes == names and data.kind == "image" and data.train.flags.c_contiguous


@pytest.mark.parametrize("change", [dict(test_batch=None), dict(data_batch_2=bytes(3072))])
def test_broken_cifar_binary(tmp_path, change):
    files = cifar10()
    for name, content in change.items():
        files.pop(name + ".bin")
        if content is not None:
            files[name + ".bin"] = content
    for path in (write_folder(tmp_path / "c", files), write_archive(tmp_path / "c.tar.gz", files)):
        with pytest.raises(ef.IoError):
            ef.data.load(path)


# SVHN

def test_svhn(tmp_path):
    io_module = pytest.importorskip("scipy.io")
    images, labels = IMAGES.transpose(1, 2, 3, 0), np.arange(1, 11, dtype=np.uint8)[:, None]
    for name, n in (("train", 10), ("test", 4)):
        io_module.savemat(tmp_path / f"{name}_32x32.mat", {"X": images[..., :n], "y": labels[:n]})
    data = ef.data.load(tmp_path)
    assert np.array_equal(data.train, IMAGES) and np.array_equal(data.test, IMAGES[:4])
    assert np.array_equal(data.train_labels, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]) and len(data.classes) == 10
    assert np.array_equal(ef.data.load(tmp_path / "test_32x32.mat").train, IMAGES[:4])
    path = tmp_path / "test_32x32.mat"
    whole = path.read_bytes()
    for content in (whole[:200], b"", b"no matlab" * 40, whole[:-3000]):
        path.write_bytes(content)
        with pytest.raises(ef.IoError):
            ef.data.load(tmp_path)
    path.unlink()
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path)


# CelebA

@pytest.fixture
def celeba(tmp_path):
    """Five aligned pictures, red inside the face's square and blue outside; two in the test part."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    picture = np.zeros((218, 178, 3), np.uint8)
    picture[..., 2] = 255
    picture[40:188, 15:163] = 255, 0, 0
    names = [f"{i:06}.png" for i in range(1, 6)]
    for name in names:
        image.fromarray(picture).save(folder / "img_align_celeba" / name)
    lines = [f"{name}  {' '.join(v)}" for name, v in zip(names, [("1", "-1"), ("-1", "-1"), ("1", "1"),
                                                                   ("-1", "1"), ("1", "-1")])]
    (folder / "list_attr_celeba.txt").write_text("\n".join(["5", "Smiling Young ", *lines]) + "\n")
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{name} {part}\n" for name, part in zip(names, (0, 2, 0, 1, 2))))
    return folder


def test_celeba(celeba):
    data = ef.data.load(celeba, size=16)
    assert data.train.shape == (3, 16, 16, 3) and data.test.shape == (2, 16, 16, 3)
    # The square that Real NVP takes, and nothing beside it.
    assert (data.train == np.array([255, 0, 0])).all()
    assert data.attributes == ["Smiling", "Young"]
    assert np.array_equal(data.train_attributes, [[1, 0], [1, 1], [0, 1]])
    assert np.array_equal(data.test_attributes, [[0, 0], [1, 0]])
    part = data.split(1 / 3)
    assert part.train_attributes.shape == (2, 2) and part.test_attributes.shape == (1, 2)
    cropped = ef.data.load(celeba, size=16, crop=170)
    assert cropped.attributes == data.attributes and (cropped.train[:, 0, :, 2] == 255).all()
    (celeba / "list_eval_partition.txt").unlink()
    text = (celeba / "list_attr_celeba.txt").read_text()
    (celeba / "list_attr_celeba.txt").write_text(text + "\n \n")
    assert ef.data.load(celeba).train.shape == (5, 64, 64, 3)


@pytest.mark.parametrize("name, old, new", [
    ("list_attr_celeba.txt", "000003.png  1 1", "000003.png  1"),
    ("list_attr_celeba.txt", "000003.png  1 1", "000003.png  1 2"), ("list_attr_celeba.txt", "000003.png", "000002.png"),
    ("list_attr_celeba.txt", "Smiling Young", ""), ("list_eval_partition.txt", "000003.png", "000002.png"),
    ("list_attr_celeba.txt", "000003.png", "000009.png"), ("list_eval_partition.txt", "000003.png 0\n", ""),
    ("list_eval_partition.txt", "000003.png 0", "000003.png 7")])
def test_broken_celeba(celeba, name, old, new):
    text = (celeba / name).read_text()
    assert old in text
    (celeba / name).write_text(text.replace(old, new, 1))
    with pytest.raises(ef.IoError):
        ef.data.load(celeba)
