"""Named and packed data sets: CIFAR, CelebA, SVHN, ImageNet batches, large arrays, Parquet, toys."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zlib
from decimal import Decimal

import numpy as np
import pytest

import evenflow as ef
from evenflow import rows
from evenflow.runs import evaluate

rng = np.random.default_rng(0)
PLANES = rng.integers(0, 256, (10, 3072), np.uint8)
IMAGES = PLANES.reshape(10, 3, 32, 32).transpose(0, 2, 3, 1)
NAMES10, NAMES100 = [f"kind{i}" for i in range(10)], [f"fine{i}" for i in range(100)]


def cifar10_binary():
    record = np.concatenate([np.arange(10, dtype=np.uint8)[:, None], PLANES], axis=1)
    return {**{f"data_batch_{i + 1}.bin": record[2 * i:2 * i + 2].tobytes() for i in range(5)},
            "test_batch.bin": record[:3].tobytes(), "batches.meta.txt": "\n".join(NAMES10).encode() + b"\n\n"}


def cifar100_binary():
    labels = np.stack([np.arange(10), 99 - np.arange(10)], axis=1).astype(np.uint8)
    record = np.concatenate([labels, PLANES], axis=1)
    return {"train.bin": record.tobytes(), "test.bin": record[:3].tobytes(),
            "fine_label_names.txt": "\n".join(NAMES100).encode()}


def cifar10_python(protocol=2):
    def batch(a, b):
        return pickle.dumps({b"batch_label": b"x", b"labels": list(range(a, b)), b"data": PLANES[a:b],
                             b"filenames": [b"a.png"] * (b - a)}, protocol)
    return {**{f"data_batch_{i + 1}": batch(2 * i, 2 * i + 2) for i in range(5)}, "test_batch": batch(0, 3),
            "batches.meta": pickle.dumps({b"label_names": [n.encode() for n in NAMES10], b"num_vis": 3072},
                                         protocol)}


def cifar100_python():
    def batch(n):
        return pickle.dumps({"fine_labels": list(range(99, 99 - n, -1)), "coarse_labels": [0] * n,
                             "data": PLANES[:n]}, 4)
    return {"train": batch(10), "test": batch(3), "meta": pickle.dumps({"fine_label_names": NAMES100}, 4)}


def written_by_python_2():
    """A batch as the original files hold it: byte strings without encoding, protocol 2."""
    data = PLANES[:2].tobytes()
    array = (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
             b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
             b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
             + struct.pack("<i", len(data)) + data + b"tb")
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x03K\x04eu."


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
    (cifar10_binary(), NAMES10, np.arange(10)), (cifar100_binary(), NAMES100, 99 - np.arange(10)),
    (cifar10_python(), NAMES10, np.arange(10)), (cifar10_python(4), NAMES10, np.arange(10)),
    (cifar100_python(), NAMES100, 99 - np.arange(10)),
])
def test_cifar(tmp_path, write, files, names, labels):
    data = ef.data.load(write(tmp_path, files))
    assert np.array_equal(data.train, IMAGES) and np.array_equal(data.test, IMAGES[:3])
    assert np.array_equal(data.train_labels, labels) and np.array_equal(data.test_labels, labels[:3])
    assert data.classes == names and data.kind == "image" and data.train.flags.c_contiguous


def test_cifar_of_python_2(tmp_path):
    files = {**cifar10_python(), "test_batch": written_by_python_2()}
    data = ef.data.load(write_folder(tmp_path / "c", files))
    assert np.array_equal(data.test, IMAGES[:2]) and np.array_equal(data.test_labels, [3, 4])


def test_cifar_of_columns(tmp_path):
    """Arrays in Fortran order, as numpy pickles those it got by transposing."""
    batch = pickle.dumps({"labels": [3, 4, 5], "data": np.asfortranarray(PLANES[:3])}, 2)
    data = ef.data.load(write_folder(tmp_path / "c", {**cifar10_python(), "test_batch": batch}))
    assert np.array_equal(data.test, IMAGES[:3])


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("bad", [
    pickle.dumps({"data": Call(pytest.fail, "a pickle was run"), "labels": [1]}),
    pickle.dumps({"data": Call(os.system, "true"), "labels": [1]}),
    pickle.dumps({"data": PLANES[:2], "labels": Call(eval, "[1, 2]")}),
    pickle.dumps({"data": np.array([{}], object), "labels": [1]}, 2),
    pickle.dumps({"data": PLANES.astype(float), "labels": list(range(10))}, 2),
    pickle.dumps({"data": PLANES[:, :-1].copy(), "labels": list(range(10))}, 2),
    pickle.dumps({"data": PLANES, "labels": list(range(9))}, 2),
    pickle.dumps({"data": PLANES[:2], "labels": [1, 10]}, 2),
    pickle.dumps({"data": PLANES[:2], "labels": [1, 2**40]}, 2),
    pickle.dumps({"data": PLANES[:2], "labels": [1, -1]}, 2),
    pickle.dumps({"data": PLANES[:0], "labels": []}, 2),
    pickle.dumps({"data": PLANES[:2], "labels": ["a", "b"]}, 2),
    pickle.dumps([1, 2]), pickle.dumps({"x": 1}), b"", b"no pickle", cifar10_python()["test_batch"][:-50],
    b"cevenflow.data.cifar\n_Unpickler\n.", b"c__builtin__\neval\n(S'1'\ntR.",
])
def test_broken_cifar_pickle(tmp_path, bad):
    folder = write_folder(tmp_path / "c", {**cifar10_python(), "data_batch_3": bad})
    with pytest.raises(ef.IoError, match="c: data_batch_3: expected"):
        ef.data.load(folder)


@pytest.mark.parametrize("change, word", [
    (dict(test_batch=None), "the file test_batch.bin, got none"),
    (dict(data_batch_2=b""), "data_batch_2.bin: expected records of 3073 bytes, got 0"),
    (dict(data_batch_2=bytes(3072)), "data_batch_2.bin: expected records of 3073 bytes, got 3072"),
    (dict(data_batch_2=b"\x0b" + bytes(3072)), "data_batch_2.bin: expected labels in 0 ... 9, got 11"),
])
def test_broken_cifar_binary(tmp_path, change, word):
    files = cifar10_binary()
    for name, content in change.items():
        files.pop(name + ".bin")
        if content is not None:
            files[name + ".bin"] = content
    for path in (write_folder(tmp_path / "c", files), write_archive(tmp_path / "c.tar.gz", files)):
        with pytest.raises(ef.IoError, match=word):
            ef.data.load(path)


def test_broken_cifar_names(tmp_path):
    files = {**cifar10_binary(), "batches.meta.txt": b"cat\ndog\n"}
    with pytest.raises(ef.IoError, match="names of 10 classes"):
        ef.data.load(write_folder(tmp_path / "c", files))


def test_archive_writes_nothing_and_follows_nothing(tmp_path):
    path = write_archive(tmp_path / "c.tar.gz", cifar10_binary(), folder="../../")
    before = sorted(os.listdir(tmp_path))
    assert len(ef.data.load(path).train) == 10 and sorted(os.listdir(tmp_path)) == before
    with tarfile.open(tmp_path / "l.tar.gz", "w:gz") as archive:
        for name in cifar10_binary():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    with pytest.raises(ef.IoError, match="l.tar.gz: expected the files of CIFAR"):
        ef.data.load(tmp_path / "l.tar.gz")


@pytest.mark.parametrize("damage", [lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"no archive",
                                    lambda b: b[:2000] + bytes(50) + b[2050:], gzip.compress])
def test_broken_archive(tmp_path, damage):
    path = write_archive(tmp_path / "c.tar.gz", cifar10_binary())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ef.IoError, match="c.tar.gz: expected"):
        ef.data.load(path)


# Pictures

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


def test_celeba_is_not_smoothed(celeba):
    """As TensorFlow 1's bilinear resize_images: of 148 rows and columns 64 are taken, and the next ones."""
    image = pytest.importorskip("PIL.Image")
    picture = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    image.fromarray(picture).save(celeba / "img_align_celeba" / "000001.png")
    face, at = picture[40:188, 15:163].astype(float), np.arange(64) * 148 / 64
    low, share = at.astype(int), at - at.astype(int)
    lines = face[low] + share[:, None, None] * (face[low + 1] - face[low])
    wanted = lines[:, low] + share[:, None] * (lines[:, low + 1] - lines[:, low])
    assert np.abs(ef.data.load(celeba).train[0] - wanted).max() <= 0.5


@pytest.mark.parametrize("name, old, new, word", [
    ("list_attr_celeba.txt", "5\n", "6\n", "list_attr_celeba.txt: expected 6 pictures as in line 1, got 5"),
    ("list_attr_celeba.txt", "5\n", "x\n", "expected a count"),
    ("list_attr_celeba.txt", "000003.png  1 1", "000003.png  1", "in line 5, got '000003.png 1'"),
    ("list_attr_celeba.txt", "000003.png  1 1", "000003.png  1 2", "in line 5"),
    ("list_attr_celeba.txt", "000003.png", "../000003.png", "in line 5"),
    ("list_attr_celeba.txt", "000003.png  1 1", "\n", "in line 5, got ''|6 pictures|got 6"),
    ("list_attr_celeba.txt", "000003.png", "000002.png", "one line for 000002.png, got lines 4 and 5"),
    ("list_attr_celeba.txt", "Smiling Young", "Young Young", "different names of attributes in line 2"),
    ("list_attr_celeba.txt", "Smiling Young", "", "different names of attributes in line 2"),
    ("list_eval_partition.txt", "000003.png", "000002.png", "another file and 0, 1 or 2 in line 3"),
    ("list_attr_celeba.txt", "000003.png", "000009.png", "000009.png: expected a picture|a line for 000009"),
    ("list_eval_partition.txt", "000003.png 0\n", "", "a line for 000003.png"),
    ("list_eval_partition.txt", "000003.png 0", "000003.png 7", "0, 1 or 2 in line 3"),
])
def test_broken_celeba(celeba, name, old, new, word):
    text = (celeba / name).read_text()
    assert old in text
    (celeba / name).write_text(text.replace(old, new, 1))
    with pytest.raises(ef.IoError, match=word):
        ef.data.load(celeba)


def test_pictures_are_cropped_and_decoded_when_used(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    pictures = rng.integers(0, 256, (4, 8, 10, 3), np.uint8)
    for i, picture in enumerate(pictures):
        image.fromarray(picture).save(tmp_path / f"{i}.png")
    assert np.array_equal(ef.data.load(tmp_path, crop=4).train, pictures[:, 2:6, 3:7])
    monkeypatch.setattr("evenflow.data.folder.RESIDENT_BYTES", 0)
    lazy = ef.data.load(tmp_path).train
    assert isinstance(lazy, rows.Rows) and lazy.shape == pictures.shape
    assert np.array_equal(lazy[[3, 0]], pictures[[3, 0]])
    flow = ef.NICE((8, 10, 3), couplings=2, hidden=(8,))
    history = flow.fit(lazy, valid=ef.data.load(tmp_path).split(0.5).test, batch_size=2, epochs=2)
    assert history[-1]["valid_loss"] == -flow.log_prob(ef.data.load(tmp_path).split(0.5).test).mean()
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:-60])
    with pytest.raises(ef.IoError, match="2.png: expected a picture"):
        flow.fit(lazy, batch_size=2, epochs=1)
    image.fromarray(pictures[0, :4]).save(tmp_path / "2.png")
    with pytest.raises(ef.IoError, match="2.png: expected 8 x 10 pixels as before, got 4 x 10"):
        lazy[2]
    with pytest.raises(ef.IoError, match="2.png: expected at least 6 x 6 pixels to crop, got 4 x 10"):
        ef.data.load(tmp_path, crop=6)


def test_images_in_a_black_square(tmp_path):
    x = rng.integers(1, 256, (5, 8, 7, 3), np.uint8)
    np.savez(tmp_path / "x.npz", train=x, test=x[:2], train_labels=np.arange(5))
    padded = ef.data.load(tmp_path / "x.npz", pad=11)
    assert padded.shape == (11, 11, 3) and np.array_equal(padded.train_labels, np.arange(5))
    assert np.array_equal(padded.train[:, 1:9, 2:9], x) and np.array_equal(padded.test, padded.train[:2])
    assert padded.train.sum() == x.sum(dtype=np.uint64)
    outside = ef.data.Dataset(rows.Picked(x, np.arange(5)), kind="image").padded(11).train
    assert isinstance(outside, rows.Rows) and outside.dtype == np.uint8
    assert np.array_equal(outside[[3, 0]], padded.train[[3, 0]]) and np.array_equal(outside[1:3], padded.train[1:3])
    assert padded.padded(11).train is padded.train
    with pytest.raises(ef.ShapeError, match="expected images of at most 7 x 7 for pad=7, got 8 x 7"):
        ef.data.load(tmp_path / "x.npz", pad=7)
    with pytest.raises(ef.ConfigError, match="expected pad=8 with images only, got a table"):
        ef.data.load("two-moons", pad=8)
    with pytest.raises(ef.ConfigError, match="pad"):
        ef.data.load("digits", pad=0)


def test_pictures_of_16_bits_are_refused(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ef.IoError, match="deep.png: expected 8 bits a channel"):
        ef.data.load(tmp_path)


def png(depth, channels):
    """A picture of 2 x 2 black pixels; Pillow writes none of 16 bits with colours."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 2, depth, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    pixels = zlib.compress(bytes(2 * (1 + 2 * channels * depth // 8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def ppm(largest):
    return f"P6 2 2 {largest}\n".encode() + bytes(12 * (1 + (largest > 255)))


def tiff(depth):
    tags = ((256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 206),
            (277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, 12 * depth // 8))
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return header.ljust(200, b"\0") + struct.pack("<HHH", *3 * [depth]) + bytes(12 * depth // 8)


def test_colours_of_16_bits_are_refused(tmp_path):
    """Pillow opens them as pictures of 8 bits."""
    pytest.importorskip("PIL.Image")
    for kind, good, bad in ([("png", png(8, n), png(16, n)) for n in (2, 3, 4)]
                            + [("ppm", ppm(255), ppm(65535)), ("tif", tiff(8), tiff(16))]):
        path = tmp_path / f"x.{kind}"
        path.write_bytes(good)
        assert ef.data.load(tmp_path).train[0].max() == 0
        path.write_bytes(bad)
        with pytest.raises(ef.IoError, match=f"x.{kind}: expected 8 bits a channel, got more"):
            ef.data.load(tmp_path)
        path.unlink()


# Arrays

@pytest.fixture
def small_memory(monkeypatch):
    """Arrays of more than 100 bytes count as large."""
    for module in ("rows", "data.numpy_files"):
        monkeypatch.setattr(f"evenflow.{module}.RESIDENT_BYTES", 100)


def test_large_arrays_stay_in_their_files(tmp_path, small_memory):
    table, grey = rng.standard_normal((50, 3)).astype(np.float32), rng.integers(0, 256, (30, 4, 4), np.uint8)
    np.save(tmp_path / "t.npy", table)
    np.savez(tmp_path / "g.npz", x=np.zeros(3), train=grey, test=grey[:9], labels=np.arange(30) % 3)
    np.savez_compressed(tmp_path / "c.npz", train=grey)
    one, many = ef.data.load(tmp_path / "t.npy"), ef.data.load(tmp_path / "g.npz")
    assert all(isinstance(x, rows.Stored) for x in (one.train, many.train, many.test))
    assert np.array_equal(one.train[:], table) and one.kind == "table"
    assert np.array_equal(many.train[[7, 3]], grey[[7, 3], ..., None]) and many.shape == (4, 4, 1)
    assert np.array_equal(many.test[:], grey[:9, ..., None]) and many.classes == ["0", "1", "2"]
    assert isinstance(ef.data.load(tmp_path / "c.npz").train, np.ndarray)
    part = many.split(0.2, seed=1)
    assert isinstance(part.train, rows.Picked) and (len(part.train), len(part.test)) == (24, 6)
    first = np.flatnonzero(part.train_labels == part.train_labels[0])
    assert np.isin(part.train[first].reshape(len(first), -1),
                   grey[np.arange(30) % 3 == part.train_labels[0]]).all()
    both = np.concatenate([part.train[:], part.test[:]])[..., 0]
    assert sorted(map(bytes, both)) == sorted(map(bytes, grey))


def test_split_of_a_file_keeps_no_numbers(tmp_path, small_memory):
    table = rng.standard_normal((50, 3))
    np.savez(tmp_path / "t.npz", x=table, labels=np.arange(50))
    part = ef.data.load(tmp_path / "t.npz").split(0.2)
    assert isinstance(part.train.index, rows.Order) and len(part.test) == 10
    assert np.array_equal(part.train[:], table[part.train_labels])
    assert np.array_equal(np.sort(np.concatenate([part.train_labels, part.test_labels])), np.arange(50))
    flow = ef.RealNVP(3, couplings=2, hidden=(8,))
    flow.fit(part.train, valid=part.test, batch_size=8, epochs=2)


def test_standard_error_of_neighbours_drawn_together(tmp_path, monkeypatch):
    monkeypatch.setattr("evenflow.rows.RESIDENT_BYTES", 0)
    values = np.random.default_rng(1).standard_normal((1 << 16, 2), np.float32)
    np.save(tmp_path / "sorted.npy", np.sort(values, axis=0))
    table = np.load(tmp_path / "sorted.npy", mmap_mode="r")
    flow = ef.RealNVP(2, couplings=1, hidden=(4,))
    flow.init(np.asarray(table))
    parts = [ef.data.Dataset(table).split(0.05, seed) for seed in range(50)]
    assert {rows.group_of(part.test) for part in parts} == {64}
    results = [evaluate(flow, part) for part in parts]
    claimed = np.mean([result["nll_nats_error"] for result in results])
    assert np.std([result["nll_nats"] for result in results]) == pytest.approx(claimed, rel=0.3)
    whole = evaluate(flow, ef.data.Dataset(table))  # of rows that nobody drew
    nll = -flow.log_prob(table)
    assert whole["nll_nats_error"] == pytest.approx(nll.std(ddof=1) / np.sqrt(len(nll)))


@pytest.mark.parametrize("write, word", [
    (lambda p: p.write_bytes(p.read_bytes()[:-8]), "bytes of data for float64"),
    (lambda p: p.write_bytes(b"\x93NUMPY\x09" + p.read_bytes()[7:]), "version"),
    (lambda p: p.write_bytes(b"no magic" + p.read_bytes()[8:]), "magic"),
    (lambda p: p.write_bytes(p.read_bytes().replace(b"(50, 3)", b"(-5, 3)")), "npy file"),
    (lambda p: p.write_bytes(p.read_bytes().replace(b"'<f8'", b"'|O8'")), "objects"),
    (lambda p: np.save(p, np.asfortranarray(np.zeros((50, 3)))), "Fortran order"),
])
def test_broken_large_npy(tmp_path, small_memory, write, word):
    np.save(tmp_path / "t.npy", np.zeros((50, 3)))
    write(tmp_path / "t.npy")
    with pytest.raises(ef.IoError, match=f"t.npy: expected.*{word}"):
        ef.data.load(tmp_path / "t.npy")


def test_broken_large_npz(tmp_path, small_memory):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.zeros((50, 3)))
    whole = path.read_bytes()
    np.save(tmp_path / "t.npy", np.zeros((50, 3)))
    for content in (whole[:-60], whole[:40], b"XX" + whole[2:], (tmp_path / "t.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ef.IoError, match="t.npz: expected"):
            ef.data.load(path)


@pytest.mark.parametrize("limit, held_out", [(10**9, "val_data"), (100, "test_data")])
def test_imagenet_batches(tmp_path, monkeypatch, limit, held_out):
    for module in ("rows", "data.numpy_files"):
        monkeypatch.setattr(f"evenflow.{module}.RESIDENT_BYTES", limit)
    planes = PLANES[:, :3 * 64]
    for k, name in enumerate(["train_data_batch_1", "train_data_batch_2", "train_data_batch_10"]):
        np.savez(tmp_path / f"{name}.npz", data=planes[3 * k:3 * k + 3], labels=np.arange(3) + 3 * k + 1,
                 mean=np.zeros(192))
    np.savez(tmp_path / f"{held_out}.npz", data=planes[9:], labels=np.array([12]))
    data = ef.data.load(tmp_path)
    images = planes.reshape(10, 3, 8, 8).transpose(0, 2, 3, 1)
    assert np.array_equal(np.asarray(data.train), images[:9]) and np.array_equal(data.test[:], images[9:])
    assert np.array_equal(data.train_labels, np.arange(9)) and np.array_equal(data.test_labels, [11])
    assert isinstance(data.train, rows.Joined if limit == 100 else np.ndarray) and len(data.classes) == 12
    np.savez(tmp_path / "train_data_batch_3.npz", data=planes[:, :12], labels=np.arange(10))
    with pytest.raises(ef.IoError, match="batch_3.npz: expected labels counted from 1, .* got 0"):
        ef.data.load(tmp_path)
    np.savez(tmp_path / "train_data_batch_3.npz", data=planes[:, :12], labels=np.arange(10) + 1)
    with pytest.raises(ef.IoError, match=r"batch_3.npz: expected uint8 samples \(8, 8, 3\)"):
        ef.data.load(tmp_path)
    np.savez(tmp_path / "train_data_batch_3.npz", data=planes[:, :13])
    with pytest.raises(ef.IoError, match=r"batch_3.npz: expected data as uint8 \(N, 3 S S\)"):
        ef.data.load(tmp_path)
    np.savez(tmp_path / "train_data_batch_3.npz", data=planes)
    with pytest.raises(ef.IoError, match="labels in all files or in none"):
        ef.data.load(tmp_path)


# Tables

@pytest.fixture
def parquet(tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet, table

    def write(**columns):
        parquet.write_table(table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"
    return write


def test_parquet(parquet):
    path = parquet(a=[1, -300, 5], b=[2.5, 4.0, 6.0], kind=["x", "y", "x"])
    data = ef.data.load(path, label="kind")
    assert data.columns == ["a", "b"] and data.classes == ["x", "y"] and data.train.dtype == np.float64
    assert np.array_equal(data.train, [[1, 2.5], [-300, 4], [5, 6]])
    assert np.array_equal(data.train_labels, [0, 1, 0])
    assert np.array_equal(ef.data.load(path, columns=["b", "a"]).train[:, 0], [2.5, 4, 6])
    assert ef.data.load(path, columns=["b"], label="a").classes == ["-300", "1", "5"]
    path = parquet(a=[Decimal("1.5"), Decimal("-2.25")], b=np.array([1, 2], np.float16))
    assert np.array_equal(ef.data.load(path).train, [[1.5, 1], [-2.25, 2]])


@pytest.mark.parametrize("columns, options, error, word", [
    (dict(a=[1.0, None]), {}, ef.IoError, "row 1, column 'a', got an empty cell"),
    (dict(a=[1, None]), {}, ef.IoError, "row 1, column 'a', got an empty cell"),
    (dict(a=[1.0, 2.0], b=[0.0, np.nan]), {}, ef.IoError, "row 1, column 'b', got nan"),
    (dict(a=[np.inf]), {}, ef.IoError, "row 0, column 'a', got inf"),
    (dict(a=["1", "2"]), {}, ef.IoError, "numbers in column 'a', got string"),
    (dict(a=[True]), {}, ef.IoError, "numbers in column 'a', got bool"),
    (dict(a=[1.0], k=[None]), dict(label="k"), ef.IoError, "a class in row 0, column 'k'"),
    (dict(a=[1.0]), dict(label="k"), ef.ConfigError, "out of a, got 'k'"),
    (dict(a=[1.0]), dict(columns=["b"]), ef.ConfigError, "out of a, got 'b'"),
    (dict(a=[1.0], b=[2.0]), dict(columns=["b", "b"]), ef.ConfigError, "different columns, got 'b' twice"),
    (dict(a=[]), {}, ef.IoError, "row, got none|numbers in column"),
])
def test_broken_parquet(parquet, columns, options, error, word):
    with pytest.raises(error, match=word) as found:
        ef.data.load(parquet(**columns), **options)
    assert "t.parquet" in str(found.value)


def test_parquet_columns_of_one_name(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    parquet.write_table(pyarrow.table([[1.0], [2.0], [3.0]], names=["a", "b", "a"]), tmp_path / "t.parquet")
    with pytest.raises(ef.IoError, match="t.parquet: expected different names of columns, got a, b, a"):
        ef.data.load(tmp_path / "t.parquet")


def test_foreign_parquet(parquet):
    path = parquet(a=np.arange(1000.0))
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-20], whole[:60] + bytes(200) + whole[260:], b"a,b\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(ef.IoError, match="t.parquet: expected a readable Parquet file") as error:
            ef.data.load(path)
        assert "\n" not in str(error.value)


def test_absent_packages(tmp_path, monkeypatch):
    for name, module, extra in (("t.parquet", "pyarrow.parquet", "parquet"), ("t.mat", "scipy.io", "svhn")):
        (tmp_path / name).write_bytes(b"")
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ef.MissingExtra, match=rf'pip install "evenflow\[{extra}\]"'):
            ef.data.load(tmp_path / name)


# SVHN and toys

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
        with pytest.raises(ef.IoError, match="test_32x32.mat: expected"):
            ef.data.load(tmp_path)
    io_module.savemat(path, {"X": images, "y": labels + 1})
    with pytest.raises(ef.IoError, match="labels y in 1 ... 10"):
        ef.data.load(tmp_path)
    path.unlink()
    with pytest.raises(ef.IoError, match="test_32x32.mat: expected a MATLAB file"):
        ef.data.load(tmp_path)


@pytest.mark.parametrize("name", ["two-moons", "rings", "checkerboard"])
def test_toys(name):
    data = ef.data.load(name)
    assert data.train.shape == (10_000, 2) and data.test.shape == (2_000, 2) and data.kind == "table"
    assert np.array_equal(data.train, ef.data.load(name).train)
    assert np.isfinite(data.train).all() and (name == "checkerboard") == (data.train_labels is None)


def test_shapes_of_toys():
    for make, noise in ((ef.data.two_moons, 0.1), (ef.data.rings, 0.08)):
        assert np.array_equal(make(50)[0], make(50, noise)[0])
        assert np.array_equal(make(50, -0.0)[0], make(50, 0.0)[0])
    x, y = ef.data.rings(2000, noise=0.0, seed=1)
    np.testing.assert_allclose(np.hypot(*x.T), 1 + y)
    x, y = ef.data.two_moons(2000, noise=0.0, seed=1)
    np.testing.assert_allclose(np.hypot(x[:, 0] - y, x[:, 1] - 0.5 * y), 1)
    assert (x[y == 0, 1] >= 0).all() and (x[y == 1, 1] <= 0.5).all()
    assert not np.array_equal(x, ef.data.two_moons(2000, noise=0.0, seed=2)[0])
    square = np.floor(ef.data.checkerboard(4000, seed=1) / 2).astype(int)
    assert (square.sum(1) % 2 == 0).all() and len(np.unique(square, axis=0)) == 8
    assert square.min() == -2 and square.max() == 1
