"""Data sets: readers for files and folders of many kinds, public and built-in sets, augmentation.

The digits that ship with evenflow are the test part of "Optical Recognition of Handwritten Digits"
(E. Alpaydin, C. Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0), levels 0 ... 16 reduced to 16
levels and scaled to 0 ... 255.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

from evenflow._border.checks import file_name, flag, whole
from evenflow.data import public, toys
from evenflow.data.augment import Augment
from evenflow.data.check import inspect
from evenflow.data.dataset import Dataset, checked, entries, require_weight
from evenflow.data.folder import MODES, SUFFIXES, read_folder
from evenflow.data.numpy_files import read_npy, read_npy_folder, read_npz, read_npz_folder
from evenflow.data.public import download
from evenflow.data.table import TABLES, Columns, read_table
from evenflow.data.toys import checkerboard, rings, two_moons
from evenflow.errors import ConfigError, IoError

__all__ = ["Augment", "Dataset", "checkerboard", "download", "inspect", "load", "rings", "two_moons"]

FILES: dict[str, Callable[[str], Dataset]] = {
    ".npy": read_npy, ".npz": read_npz, ".tar.gz": public.read_cifar, ".mat": public.read_svhn,
    **dict.fromkeys(("-ubyte", "-ubyte.gz", ".idx", ".idx.gz"), lambda path: checked(path, public.read_idx(path)))}
"""Readers of files by the endings of their names, beside those of tables."""


def load(source: str | os.PathLike[str], *, columns: Sequence[str | int] | None = None,
         label: str | int | None = None, context: Sequence[str | int] | None = None, weight: str | int | None = None,
         drop: Sequence[str | int] | None = None, omit: Sequence[Sequence[Any]] | None = None,
         noise: Sequence[Sequence[Any]] | None = None,
         size: int | None = None, crop: int | None = None, channels: int | None = None, background: str | None = None,
         pad: int | None = None, named: bool = False) -> Dataset:
    """Read a data set by name or by path.

    Names are `digits` (8x8x1, 16 levels, for `bits=4`), `two-moons`, `rings`, `checkerboard` (10,000 + 2,000 points in
    the plane), and `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, `svhn`, which are downloaded once (see `download`).
    Paths are files of numpy, CSV, Parquet and IDX, archives of CIFAR, SVHN's files, and folders, as the guide on data
    describes them. An array of a .npy file that is larger than 256 MiB stays there, as a np.memmap, and so do pictures.

    Parameters
    ----------
    source : str or path
        A path, or a name where no such path exists. Endings are the same in capitals.
    columns : sequence of str or int, optional
        Columns of a CSV or Parquet file to take, in this order; by default all that have no other use. Columns without
        names go by their numbers.
    label : str or int, optional
        Column of classes, any text. They are numbered by value where all are numbers, else as sorted text.
    context : sequence of str or int, optional
        Columns that the density of the others is conditioned on, in this order.
    weight : str or int, optional
        Column of how much each row counts, numbers >= 0.
    drop : sequence of str or int, optional
        Columns of a CSV or Parquet file to leave out.
    omit : sequence of (column, value), optional
        Rows of such a file to leave out: those that have this number in the column, or, for "missing", no finite one.
    noise : sequence of (column, step), optional
        Columns of multiples of step, such as whole numbers, to which uniform noise in -step/2 ... step/2 is added, the
        same whenever the file is read.
    size : int, optional
        Side in pixels of the squares that the pictures of a folder are resized to; by default they must have one size.
        CelebA's are resized to 64.
    crop : int, optional
        Side in pixels of the square that is taken out of the middle of each picture before it is resized; by default
        the largest square.
    channels : int, optional
        1 reads all pictures as grey, 3 as RGB, 2 and 4 keep their alpha beside; by default they are grey if the first
        is, else RGB.
    background : str, optional
        Colour that transparent pictures are put on, unless their alpha is kept: a name, or "#rrggbb"; by default white.
    pad : int, optional
        Set images of any source into the middle of a black square of this side, see `Dataset.padded`.
    named : bool
        Take `source` for a name even where such a path exists.

    Returns
    -------
    Dataset
        Training data, and test data where the source has them.

    Raises
    ------
    IoError
        If a file is missing, broken or of another kind, or a number of a table is missing or not finite. `row` and
        `column` say where the first is, the text also how many there are.
    ConfigError
        If there is no such column, or an option doesn't fit the source.
    MissingExtra
        If a reader needs a package that is not installed.

    Examples
    --------
    >>> import evenflow as ef
    >>> ef.data.load("rings")
    Dataset(table, train (10000, 2) float64, test (2000, 2) float64, train_labels (10000,) int32, test_labels (2000,) \
int32, 2 columns, 4 classes)
    """
    path = file_name("data", source)
    exists = not flag("data", "named", named) and os.path.exists(path)
    table, pictures = path.lower().endswith(TABLES), exists and is_pictures(path)
    if not table and any(chosen is not None for chosen in (columns, label, context, weight, drop, omit, noise)):
        raise ConfigError("[data] columns, label, context, weight, drop, omit and noise are for CSV and Parquet files, "
                          f"not for {path}")
    sides = {"size": size, "crop": crop, "channels": channels}
    if not pictures and (any(value is not None for value in sides.values()) or background is not None):
        raise ConfigError("[data] size, crop, channels and background are for folders of pictures, and there is none "
                          f"at {path}")
    if pictures:
        for name, value in sides.items():
            sides[name] = None if value is None else whole("data", name, value, low=1)
        if channels not in (None, *MODES):
            raise ConfigError(f"[data] expected channels to be 1, 2, 3 or 4, got {channels}")
        celeba = os.path.exists(os.path.join(path, public.ATTRIBUTES))
        found = (public.read_celeba if celeba else read_folder)(path, **sides, background=background)
    elif not exists:
        found = _named(path)
    elif table:
        found = read_table(path, Columns.of(columns, label, context, weight, drop, omit, noise))
    else:
        found = _reader(path)(path)
    require_weight(path, training=found.train_weight, test=found.test_weight)
    return found if pad is None else found.padded(pad)


def is_pictures(path: str) -> bool:
    """Whether a path is a folder of pictures: CelebA's, or any that has no files of another kind."""
    return os.path.isdir(path) and (os.path.exists(os.path.join(path, public.ATTRIBUTES))
                                    or _folder_reader(path) is None)


def _named(name: str) -> Dataset:
    if name == "digits":
        with resources.as_file(resources.files(__package__) / "digits.npz") as file:
            return read_npz(file)
    if name in toys.NAMES:
        return toys.toy(name)
    if name in public.SETS:
        return public.load_public(name)
    raise IoError(f"[data] there is no file or folder {name}, nor a data set of this name; the names are "
                  f"{', '.join(('digits', *toys.NAMES, *public.SETS))}")


def _folder_reader(path: str) -> Callable[[str], Dataset] | None:
    """The reader of a folder's files, unless they are pictures."""
    names = [entry.name for entry in entries(path)]
    return next((read for read, fits in (
        (public.read_idx_folder, any("idx3-ubyte" in name for name in names)),
        (public.read_cifar, public.is_cifar(names)), (public.read_svhn, public.SVHN[0] in names),
        (read_npz_folder, any(name.lower().endswith(".npz") for name in names)),
        (read_npy_folder, any(name.lower().endswith(".npy") for name in names))) if fits), None)


def _reader(path: str) -> Callable[[str], Dataset]:
    own = _folder_reader(path) if os.path.isdir(path) else None
    if own is not None:
        return own
    for ending, read in FILES.items():
        if path.lower().endswith(ending):
            return read
    if path.lower().endswith(SUFFIXES):
        raise IoError(f"[data] {path}: a single picture is no data set; name a folder with it, or load it with Pillow")
    raise IoError(f"[data] {path}: the name must end in {', '.join((*FILES, *TABLES))}, which tells how to read the "
                  "file")
