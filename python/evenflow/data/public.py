"""Known public data sets: downloaded once, checked, kept in a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass

from evenflow.arrays import choice
from evenflow.data.cifar import read_cifar
from evenflow.data.dataset import Dataset
from evenflow.data.idx import read_idx_folder
from evenflow.data.svhn import read_svhn
from evenflow.errors import IoError

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
         "https://storage.googleapis.com/cvdf-datasets/mnist/",
         "http://yann.lecun.com/exdb/mnist/"),
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
                      {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}),
    "cifar100": Public(("https://www.cs.toronto.edu/~kriz/",),
                       {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"}),
    "svhn": Public(("http://ufldl.stanford.edu/housenumbers/",),
                   {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
                    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"}),
}


def download(name: str, *, mirror: str | None = None) -> str:
    """Fetches a public data set, unless it is there, and returns its folder.

    name: "mnist" | "fashion-mnist" | "cifar10" | "cifar100" | "svhn". The folder is <name> in $EVENFLOW_DATA,
    or in ~/.cache/evenflow. A download that broke off goes on where it stopped; a file gets its name once
    its checksum is right. mirror: an address to use instead of the public ones. IoError without network, for
    a wrong checksum and for a folder that can't be written.
    """
    public = SETS[choice("download", "name", name, tuple(SETS))]
    if mirror is not None and not isinstance(mirror, str):
        raise TypeError(f"[download] expected an address as text for mirror, got {mirror!r}")
    folder = os.path.join(os.environ.get(FOLDER) or os.path.join(_home(), ".cache", "evenflow"), name)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise IoError(f"[download] expected to make the folder {folder}, got: {error}") from error
    from evenflow.data.fetch import fetch  # late, since it imports Python's network modules
    addresses = public.addresses if mirror is None else (mirror.rstrip("/") + "/",)
    missing = [file for file in public.files if not os.path.exists(os.path.join(folder, file))]
    for i, file in enumerate(missing):
        try:
            fetch([address + file for address in addresses], os.path.join(folder, file), public.files[file])
        except IoError as error:
            if i + 1 == len(missing):
                raise
            others = ", ".join(addresses[0] + name for name in missing[i + 1:])
            raise IoError(f"{error}; not fetched either: {others}") from error
    return folder


def _home() -> str:
    home = os.path.expanduser("~")
    if home == "~":  # nor is there a passwd entry
        raise IoError(f"[download] expected HOME or {FOLDER} to say where data are kept, got neither")
    return home


def load_public(name: str) -> Dataset:
    """A public data set, downloaded if need be."""
    folder = download(name)
    if name.startswith("cifar"):
        return read_cifar(os.path.join(folder, next(iter(SETS[name].files))))
    return read_svhn(folder) if name == "svhn" else read_idx_folder(folder)
