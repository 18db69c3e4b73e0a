"""The image data sets of the papers: MNIST, CIFAR, SVHN and CelebA, from their own files or downloaded."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from evenflow._border.checks import choice
from evenflow.data.dataset import Dataset, checked, entries, reading
from evenflow.data.folder import Box, middle, pictures
from evenflow.data.numpy_files import planes
from evenflow.errors import IoError, MissingExtra
from evenflow._border.extras import need

FOLDER = "EVENFLOW_DATA"
SETS = {
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/",
              {"train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
               "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
               "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
               "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c"}),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                      {"train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                       "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
                       "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
                       "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310"}),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/", {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}),
    "cifar100": ("https://www.cs.toronto.edu/~kriz/", {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"}),
    "svhn": ("http://ufldl.stanford.edu/housenumbers/", {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
                                                         "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"}),
}
"""Of each public data set, the address of a folder, and the files there with their MD5 sums."""


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
    address, files = SETS[choice("download", "name", name, tuple(SETS))]
    address = address if mirror is None else str(mirror).rstrip("/") + "/"
    missing = list(files)
    try:
        folder = Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "evenflow", name)
        missing = [file for file in files if not (folder / file).exists()]
        for file in missing:
            pooch = need("download", "pooch", "pooch", "download")
            pooch.retrieve(address + file, f"md5:{files[file]}", fname=file, path=folder)
    except MissingExtra:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # the second: no home, the third: another checksum
        raise IoError(f"[download] expected to download {name}, got: {str(error).splitlines()[0]}; or put these files "
                      f"into ${FOLDER}/{name} or ~/.cache/evenflow/{name} yourself: "
                      f"{', '.join(address + file for file in missing)}") from error
    return str(folder)


def load_public(name: str) -> Dataset:
    """A public data set, downloaded if need be."""
    folder = download(name)
    if name.startswith("cifar"):
        return read_cifar(os.path.join(folder, next(iter(SETS[name][1]))))
    return read_svhn(folder) if name == "svhn" else read_idx_folder(folder)


# IDX, the format of MNIST: a magic number, big-endian sizes, then the values; plain or gzip.

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str) -> np.ndarray:
    """The array in an IDX file, in native byte order. IoError."""
    with reading(path, "IDX file"), gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb") as file:
        content = file.read()
        if content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
            raise ValueError("it does not begin with the magic number 00 00 <type> <dimensions>")
        dtype, start = np.dtype(IDX_TYPES[content[2]]), 4 + 4 * content[3]
        shape = np.frombuffer(content[4:start], ">u4").tolist()
        return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


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

CIFAR = ([f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", "batches.meta.txt", 1), (
    ["train.bin"], "test.bin", "fine_label_names.txt", 2)
"""Training files, test file, file of the names of the classes, labels of an image (two: coarse, fine)."""


def is_cifar(names: list[str]) -> bool:
    """Whether a folder with these files is one of CIFAR's, if only of the version for Python."""
    return any(name in names for name in ("batches.meta.txt", "fine_label_names.txt", "batches.meta"))


def read_cifar(path: str) -> Dataset:
    """32x32x3 images with (fine) labels, from a folder or from a .tar.gz, which is not unpacked to disk."""
    with reading(path, "CIFAR"):
        files = _cifar_files(path)
        for train, test, meta, marks in CIFAR:
            if files.keys() >= {*train, test, meta}:
                (x, y), (test_x, test_y) = (_records([files[name] for name in names], marks)
                                            for names in (train, [test]))
                whole = checked(path, x, test_x, train_labels=y, test_labels=test_y)
                return dataclasses.replace(whole, classes=files[meta].decode("utf-8", "replace").split())
    raise IoError(f"[data] {path}: the binary files of CIFAR-10 or CIFAR-100 are missing, or some of them; the "
                  "versions for Python and MATLAB are not read")


def _cifar_files(path: str) -> dict[str, bytes]:
    """The files in a folder, or in an archive, whatever folder they are in there, by their names."""
    if os.path.isdir(path):
        return {entry.name: Path(entry.path).read_bytes() for entry in entries(path) if entry.is_file()}
    with tarfile.open(path) as archive:
        found = ((os.path.basename(member.name), archive.extractfile(member)) for member in archive)
        return {name: file.read() for name, file in found if file is not None}


def _records(files: list[bytes], marks: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels from records of `marks` labels and three planes of 32 x 32 pixels."""
    records = np.concatenate([np.frombuffer(file, np.uint8).reshape(-1, marks + 3 * 32**2) for file in files])
    return planes(records[:, marks:]), records[:, marks - 1]


# SVHN, cropped digits (Netzer, Wang, Coates, Bissacco, Wu, Ng 2011), in MATLAB's files.

SVHN = "train_32x32.mat", "test_32x32.mat"


def read_svhn(path: str) -> Dataset:
    """A folder with train_32x32.mat and test_32x32.mat, or one such file: 32x32x3 images, labels 0 ... 9."""
    if not os.path.isdir(path):
        x, y = _read_mat(path)
        return checked(path, x, train_labels=y)
    (x, y), (test, test_y) = (_read_mat(os.path.join(path, name)) for name in SVHN)
    return checked(path, x, test, train_labels=y, test_labels=test_y)


def _read_mat(path: str) -> tuple[np.ndarray, np.ndarray]:
    """X (H, W, 3, N) and y (N, 1), where the digit 0 is called 10."""
    io = need("data", "scipy.io", "scipy", "svhn")
    with reading(path, "MATLAB file with X and y"):
        content = io.loadmat(path, variable_names=("X", "y"))
        return np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2)), content["y"].reshape(-1) % 10


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
    listed = _listed(os.path.join(path, ATTRIBUTES), (-1, 1), skiprows=1)
    partition = None
    if os.path.exists(split):
        partition = _listed(split, (0, 1, 2), header=None, index_col=0)[1].reindex(listed.index)
        if partition.isna().any():
            raise IoError(f"[data] {split}: there is no line for {partition.index[partition.isna()][0]}")
    files = [os.path.join(folder if os.path.isdir(folder) else path, name) for name in listed.index]
    box = _face if crop is None else functools.partial(middle, side=crop)
    whole = Dataset(pictures(files, size or 64, box, smooth=False, channels=channels, background=background),
                    kind="image", attributes=[*listed.columns],
                    train_attributes=(listed.to_numpy() == 1).astype(np.uint8))
    return whole if partition is None else whole.divided(np.flatnonzero(partition != 2), np.flatnonzero(partition == 2))


def _face(width: int, height: int) -> Box:
    return FACE if (width, height) == ALIGNED else middle(width, height, min(width, height))


def _listed(path: str, known: tuple[int, ...], **options: Any) -> Any:
    """One of CelebA's lists, a data frame: the names of pictures, and numbers that are known ones. IoError."""
    pandas = need("data", "pandas", "pandas", "cli")
    with reading(path, "list of CelebA"):
        table = pandas.read_csv(path, sep=r"\s+", **options)
        if table.empty or not table.index.is_unique or not table.isin(known).all(axis=None):
            raise ValueError(f"expected each picture once, with numbers out of {known}")
        return table
