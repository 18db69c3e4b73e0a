"""The image data sets of the papers: MNIST, CIFAR, SVHN and CelebA, from their own files or downloaded."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import math
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenflow._border.checks import choice
from evenflow.data.dataset import Dataset, checked, reading
from evenflow.data.folder import Box, Pictures, middle
from evenflow.data.numpy_files import planes
from evenflow.errors import IoError
from evenflow._border.extras import need
from evenflow.data.rows import pick

FOLDER = "EVENFLOW_DATA"


@dataclass(frozen=True)
class Public:
    """A public data set."""

    addresses: tuple[str, ...]
    """Where the files are, in the order in which they are tried."""
    files: dict[str, str]
    """Names and MD5 sums."""


SETS = {
    "mnist": Public(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/",
         "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        {"train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
         "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
         "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
         "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c"}),
    "fashion-mnist": Public(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        {"train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
         "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
         "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
         "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310"}),
    "cifar10": Public(("https://www.cs.toronto.edu/~kriz/",),
                      {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}),
    "cifar100": Public(("https://www.cs.toronto.edu/~kriz/",),
                       {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"}),
    "svhn": Public(("http://ufldl.stanford.edu/housenumbers/",),
                   {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
                    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"}),
}


def download(name: str, *, mirror: str | None = None) -> str:
    """Download a public data set, unless its files are there.

    The files are kept in the folder `$EVENFLOW_DATA/<name>`, by default `~/.cache/evenflow/<name>`. Files that you put
    there yourself are used as they are. A download gets its name once its checksum is right.

    Parameters
    ----------
    name : str
        "mnist", "fashion-mnist", "cifar10", "cifar100" or "svhn".
    mirror : str, optional
        Address of a folder to download from instead of the public hosts.

    Returns
    -------
    str
        The folder, which `load` reads.

    Raises
    ------
    IoError
        If a file can't be downloaded, has another checksum, or can't be written.
    MissingExtra
        If pooch is not installed.
    """
    public = SETS[choice("download", "name", name, tuple(SETS))]
    if mirror is not None and not isinstance(mirror, str):
        raise TypeError(f"[download] mirror must be an address as text, not {mirror!r}")
    addresses = public.addresses if mirror is None else (mirror.rstrip("/") + "/",)
    try:
        folder = Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "evenflow", name)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # the latter: no home
        raise IoError(f"[download] the folder for {name} can't be made: {error}; say with {FOLDER} where data are "
                      "kept") from error
    missing = {file: md5 for file, md5 in public.files.items() if not (folder / file).exists()}
    if missing:
        pooch = need("download", "pooch", "pooch", "download")
    for file, md5 in missing.items():
        problems = []
        for url in (address + file for address in addresses):
            try:
                pooch.retrieve(url, f"md5:{md5}", fname=file, path=folder)
                break
            except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError: the checksum
                problems.append(f"{url}: {str(error).splitlines()[0]}")
        else:
            raise IoError(f"[download] {file} can't be downloaded: {'; '.join(problems)}; or put these files into "
                          f"{folder} yourself: {', '.join(addresses[0] + name for name in missing)}")
    return str(folder)


def load_public(name: str) -> Dataset:
    """A public data set, downloaded if need be."""
    folder = download(name)
    if name.startswith("cifar"):
        return read_cifar(os.path.join(folder, next(iter(SETS[name].files))))
    return read_svhn(folder) if name == "svhn" else read_idx_folder(folder)


# IDX, the format of MNIST: a magic number, big-endian sizes, then the values; plain or gzip.

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str) -> np.ndarray:
    """The array in an IDX file, in native byte order. IoError for a foreign, truncated or overlong file."""
    with reading(path, "IDX file"), gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_TYPES or not 1 <= head[3] <= 8:
            raise ValueError("it does not begin with the magic number 00 00 <type> <dimensions>")
        dtype, sizes = np.dtype(IDX_TYPES[head[2]]), file.read(4 * head[3])
        if len(sizes) < 4 * head[3]:
            raise ValueError("it is cut off in its header")
        shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
        wanted = math.prod(shape) * dtype.itemsize
        # Piece by piece, since the size in the header may be far larger than the file.
        data = bytearray()
        while len(data) <= wanted and (piece := file.read(min(1 << 20, wanted + 1 - len(data)))):
            data += piece
        if len(data) != wanted:
            raise ValueError(f"expected {wanted} bytes of data for shape {shape}, got "
                             + (f"only {len(data)}" if len(data) < wanted else "more"))
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def read_idx_folder(path: str) -> Dataset:
    """A folder with MNIST's file names: {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz."""
    def part(name: str) -> np.ndarray | None:
        files = [os.path.join(path, f"{name}-ubyte{ending}") for ending in ("", ".gz")]
        return next((read_idx(file) for file in files if os.path.exists(file)), None)

    train = part("train-images-idx3")
    if train is None:
        raise IoError(f"[data] {path}: the training images train-images-idx3-ubyte[.gz] are missing")
    return checked(path, train, part("t10k-images-idx3"), train_labels=part("train-labels-idx1"),
                   test_labels=part("t10k-labels-idx1"))


# CIFAR-10 and CIFAR-100 (A. Krizhevsky 2009), binary version.

CIFAR_SIDE = 32
CIFAR_MOST_BYTES = 1 << 28
CIFAR = ([f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", "batches.meta.txt", 10), (
    ["train.bin"], "test.bin", "fine_label_names.txt", 100)
"""Training files, test file, file of the names of the classes, number of classes."""


def is_cifar(names: list[str]) -> bool:
    """Whether a folder with these files is one of CIFAR's, if only of the version for Python."""
    return any(name in names for name in ("batches.meta.txt", "fine_label_names.txt", "batches.meta"))


def read_cifar(path: str) -> Dataset:
    """32x32x3 images with (fine) labels, from a folder or from a .tar.gz, which is not unpacked to disk."""
    files = _cifar_files(path)
    for train, test, meta, count in CIFAR:  # noqa: B007
        if train[0] in files and meta in files:
            break
    else:
        raise IoError(f"[data] {path}: the binary files of CIFAR-10 or CIFAR-100 are missing; the versions for Python "
                      "and MATLAB are not read")
    parts = []
    for name in (*train, test):
        if name not in files:
            raise IoError(f"[data] {path}: the file {name} is missing")
        # Records of a label (two in CIFAR-100: coarse, fine) and of three planes.
        data, marks = files[name], 1 if count == 10 else 2
        length = marks + 3 * CIFAR_SIDE**2
        if not data or len(data) % length:
            raise IoError(f"[data] {path}: {name}: expected records of {length} bytes, got {len(data)} bytes")
        records = np.frombuffer(data, np.uint8).reshape(-1, length)
        if records[:, marks - 1].max() >= count:
            raise IoError(f"[data] {path}: {name}: expected labels in 0 ... {count - 1}, "
                          f"got {records[:, marks - 1].max()}")
        parts.append((planes(records[:, marks:]), records[:, marks - 1].astype(np.int32)))
    classes = files[meta].decode("utf-8", "replace").split()
    if len(classes) != count:
        raise IoError(f"[data] {path}: {meta}: expected the names of {count} classes, got {len(classes)}")
    x, y = (np.concatenate(arrays) for arrays in zip(*parts[:-1]))
    return Dataset(x, parts[-1][0], "image", y, parts[-1][1], classes=classes)


def _cifar_files(path: str) -> dict[str, bytes]:
    """The files of CIFAR in a folder, or in an archive, whatever folder they are in there."""
    wanted = {name for train, test, meta, _ in CIFAR for name in (*train, test, meta)}
    if os.path.isdir(path):
        with reading(path, "folder of CIFAR"):
            return {name: Path(path, name).read_bytes() for name in wanted if os.path.exists(os.path.join(path, name))}
    files = {}
    with (reading(path, "archive of CIFAR"), gzip.open(path) as stream,
          tarfile.open(fileobj=stream, mode="r|") as archive):
        for member in archive:
            name = os.path.basename(member.name)
            if not member.isfile() or name not in wanted:
                continue
            if member.size > CIFAR_MOST_BYTES:
                raise ValueError(f"{name} is too large")
            file = archive.extractfile(member)
            files[name] = b"" if file is None else file.read()
        while stream.read(1 << 20):
            pass  # to the end, where the checksum is
    return files


# SVHN, cropped digits (Netzer, Wang, Coates, Bissacco, Wu, Ng 2011), in MATLAB's files.

SVHN = "train_32x32.mat", "test_32x32.mat"


def read_svhn(path: str) -> Dataset:
    """A folder with train_32x32.mat and test_32x32.mat, or one such file: 32x32x3 images, labels 0 ... 9."""
    if not os.path.isdir(path):
        x, y = _read_mat(path)
        return checked(path, x, train_labels=y)
    (x, y), (test, test_y) = (_read_mat(os.path.join(path, name)) for name in SVHN)
    return checked(path, x, test, train_labels=y, test_labels=test_y)


def _read_mat(path: str) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """X (H, W, 3, N) and y (N, 1), where the digit 0 is called 10."""
    io = need("data", "scipy.io", "scipy", "svhn")
    with reading(path, "MATLAB file"):
        content = io.loadmat(path, variable_names=("X", "y"))
    x, y = content.get("X"), content.get("y")
    if x is None or x.dtype != np.uint8 or x.ndim != 4 or x.shape[2] != 3:
        got = "none" if x is None else f"{x.dtype} {x.shape}"
        raise IoError(f"[data] {path}: expected X as uint8 (H, W, 3, N), got {got}")
    if y is None or y.dtype.kind not in "iu" or y.size != x.shape[3] or not 1 <= y.min() <= y.max() <= 10:
        raise IoError(f"[data] {path}: y must be {x.shape[3]} labels in 1 ... 10")
    return np.ascontiguousarray(x.transpose(3, 0, 1, 2)), (y.reshape(-1) % 10).astype(np.int32)


# CelebA (Liu, Luo, Wang, Tang 2015): faces with 40 attributes.

ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
ALIGNED, FACE = (178, 218), (15, 40, 163, 188)
"""Width and height of the aligned pictures, and the part of them that Real NVP takes."""


def read_celeba(path: str, size: int | None = None, crop: int | None = None, channels: int | None = None,
                background: str | None = None) -> Dataset:
    """A folder with list_attr_celeba.txt and the pictures that it lists, there or in img_align_celeba.

    With list_eval_partition.txt its part 2 is the test part, and parts 0 and 1 are training data. Pictures are cropped
    to the face, as Real NVP does, and resized to size x size (64) as Real NVP's code has it, bilinear without
    smoothing, but rounded to whole levels.
    """
    split, folder = os.path.join(path, PARTITION), os.path.join(path, IMAGES)
    listed = _listed(os.path.join(path, ATTRIBUTES), {-1, 1}, skiprows=1)
    names, values = list(listed.index), (listed.to_numpy() == 1).astype(np.uint8)
    held_out = np.zeros(len(names), bool)
    if os.path.exists(split):
        partition = _listed(split, {0, 1, 2}, header=None, index_col=0)[1].reindex(names)
        if partition.isna().any():
            raise IoError(f"[data] {split}: there is no line for {names[int(partition.isna().argmax())]}")
        held_out = partition.to_numpy() == 2
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not len(train):
        raise IoError(f"[data] {split}: all pictures are in the test part")
    files = [os.path.join(folder if os.path.isdir(folder) else path, name) for name in names]
    box = _face if crop is None else functools.partial(middle, side=crop)
    pixels = Pictures(files, size or 64, box, smooth=False, channels=channels, background=background).decoded()
    whole = Dataset(pick(pixels, train), kind="image", attributes=[*listed.columns], train_attributes=values[train])
    return dataclasses.replace(whole, test=pick(pixels, test), test_attributes=values[test]) if len(test) else whole


def _face(width: int, height: int) -> Box:
    return FACE if (width, height) == ALIGNED else middle(width, height, min(width, height))


def _listed(path: str, known: set[int], **options: Any) -> Any:
    """One of CelebA's lists, a data frame: the names of pictures, and numbers that are known ones. IoError."""
    pandas = need("data", "pandas", "pandas", "cli")
    with reading(path, "list of CelebA"):
        table = pandas.read_csv(path, sep=r"\s+", **options)
        for name, row in zip(table.index, table.to_numpy().tolist()):
            if not set(row) <= known or os.path.basename(str(name)) != name or name in ("", ".", ".."):
                raise ValueError(f"expected the name of a picture and numbers out of {sorted(known)}, "
                                 f"got {' '.join(map(str, (name, *row)))[:80]!r}")
        if table.empty or not table.index.is_unique:
            raise ValueError("expected each picture once, got none or one twice")
    return table
