"""Arrays at the border: what a user hands in becomes what the core takes, or a typed error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from evenflow import _core
from evenflow._core import DeviceArray
from evenflow._border.checks import whole
from evenflow.errors import ConfigError, DeviceError, NumericError, ShapeError
from evenflow._border.rows import Rows, stays_outside

Batch = np.ndarray | DeviceArray
"""An array of a call, in main memory or on the GPU where the model computes."""

LEVEL_ERROR = 2.0**-14
"""How far below a level a value may be and still count as it, of the range: four times a decoded photograph's worst."""

CUDA, CUDA_MANAGED = 2, 13
"""DLPack's types of devices."""


def as_array(where: str, x: Any, name: str = "") -> Any:
    """x as a numpy array, without a copy where the exporter allows it; Rows stay unread. Else TypeError, with the name
    of an argument other than the data.
    """
    if type(x) is np.ndarray:  # a call for one row should not wait for the rest
        return x
    refuse_masked(where, x)
    if isinstance(x, (np.ndarray, Rows)):
        return x
    if isinstance(x, (list, tuple, int, float, np.number)):
        try:
            return np.asarray(x)
        except ValueError as error:  # rows of different lengths
            raise TypeError(f"[{where}] expected numbers{' for ' if name else ''}{name}, got a list that numpy makes "
                            f"no array of: {error}") from error
    if hasattr(x, "to_numpy") and names_of(x) is not None:
        return _values_of_frame(where, x)
    if hasattr(x, "__dlpack__"):
        if _is_on(x, CUDA):
            raise TypeError(f"[{where}] expected an array in main memory, got {type(x).__name__} on the GPU; "
                            "copy it there, with x.cpu() in torch or numpy.asarray(x)")
        try:
            return np.from_dlpack(_with_signs(x))
        except Exception as error:  # of another library
            return _by_copy(where, x, error)
    if hasattr(x, "__array__"):
        try:
            return np.asarray(x)
        except Exception as error:
            raise TypeError(f"[{where}] expected an object that __array__ makes an array of, "
                            f"got {type(x).__name__}: {error}") from error
    raise TypeError(f"[{where}] expected a numpy array (or an object with __dlpack__ or __array__)"
                    f"{' for ' if name else ''}{name}, got {type(x).__name__}")


def names_of(x: Any) -> list[str] | None:
    """Names of the columns of a data frame of pandas, polars or pyarrow; None for anything else."""
    names = getattr(x, "column_names", None)  # pyarrow's `columns` are the values
    if names is None:
        names = getattr(x, "columns", None)
    return None if names is None or not hasattr(x, "shape") else [str(name) for name in names]


def names_of_row(x: Any) -> list[str]:
    """The names in a row of pandas' frame, which are its index; none for anything else."""
    index: Any = getattr(x, "index", None)
    return [str(name) for name in index] if hasattr(index, "dtype") and getattr(x, "ndim", 0) == 1 else []


def _values_of_frame(where: str, frame: Any) -> np.ndarray:
    """The numbers of a data frame; missing values, also of nullable integers, are NaN."""
    values = np.asarray(frame.to_numpy())
    if values.dtype.kind != "O":
        return values
    for name, dtype in zip(names_of(frame) or (), frame.dtypes):  # of pandas, with nullable types among them
        if getattr(dtype, "kind", "O") not in "iuf":
            raise TypeError(f"[{where}] column {name!r} holds {dtype}, not numbers; leave it out or convert it")
    return np.asarray(frame.to_numpy(dtype=np.float64, na_value=np.nan))


def _by_copy(where: str, x: Any, error: Exception) -> np.ndarray:
    """An array that DLPack does not give, such as one that JAX has spread over devices. Else TypeError says why."""
    kind = type(x).__name__
    dtype = str(getattr(x, "dtype", "")).rpartition(".")[2]
    if any(base.__name__ == "Tracer" for base in type(x).__mro__):
        raise TypeError(f"[{where}] expected an array with values, got a {kind}: evenflow can't be traced by JAX "
                        '(see "JAX" in the documentation)') from error
    if dtype.startswith(("bfloat16", "float8", "float4")):  # which numpy has no numbers for
        raise TypeError(f"[{where}] expected a dtype of numpy's, got {kind} of {dtype}; convert it, with x.float() in "
                        "torch or x.astype('float32') in JAX") from error
    if hasattr(x, "is_deleted") and x.is_deleted():
        raise TypeError(f"[{where}] expected an array with values, got one that was deleted or donated") from error
    if hasattr(x, "__array__") and not getattr(x, "requires_grad", False):
        with contextlib.suppress(Exception):  # of another library; DLPack's tells more
            return np.asarray(x)
    raise TypeError(f"[{where}] expected an array in main memory without gradient tracking, "
                    f"got {kind}: {error}") from error


def refuse_masked(where: str, x: Any) -> None:
    """TypeError for masked values, which numpy hands out as if they were ordinary ones."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise TypeError(f"[{where}] expected an array without masked values, got {x.mask.sum()} of them; "
                        "fill them, or leave their rows out")


def as_numbers(where: str, name: str, values: Any) -> np.ndarray:
    """Real numbers of any shape, from an array or from (nested) lists, in their own dtype. TypeError."""
    if isinstance(values, (int, float, np.number, list, tuple, DeviceArray)):
        try:
            values = np.asarray(values)
        except (TypeError, ValueError, RuntimeError) as error:  # of lists that are ragged, say
            raise TypeError(f"[{where}] expected numbers for {name}, got {values!r}: {error}") from error
    numbers = np.asarray(as_array(where, values, name))
    if numbers.dtype.kind not in "iuf":
        hint = f"; convert them with .astype({'int' if name == 'the labels' else 'float'})"
        raise TypeError(f"[{where}] expected numbers for {name}, got dtype {numbers.dtype}"
                        f"{hint if numbers.dtype.kind in 'bO' else ''}")
    return numbers


def check_batch(where: str, x: Any, shape: tuple[int, ...], *, image: bool = False, least: int = 0) -> np.ndarray:
    """A batch (N, *shape) of floats, or of uint8 for images; other integers become one of these.

    Floats are not looked at.

    least: smallest N.
    """
    x = as_array(where, x)
    if isinstance(x, np.ndarray) and x.dtype.kind in "iu" and not stays_outside(x):
        if not image:
            x = x.astype(np.float64)
        elif x.dtype != np.uint8:
            x = _pixels(where, x)
    if x.dtype.kind != "f" and not (image and x.dtype == np.uint8):
        hint = "; convert them with x.astype(float)" if x.dtype.kind in "bO" else ""
        raise TypeError(f"[{where}] expected numbers, got dtype {x.dtype}{hint}")
    _check_shape(where, x, shape, least)
    return cast(np.ndarray, x)


def _pixels(where: str, x: np.ndarray) -> np.ndarray:
    """Whole numbers as 8-bit pixels."""
    if x.size and not 0 <= x.min() <= x.max() <= 255:
        raise ConfigError(f"[{where}] expected integer pixels in 0 ... 255, got {x.min()} ... {x.max()}")
    return np.asarray(x).astype(np.uint8)


def take_batch(where: str, x: Any, shape: tuple[int, ...], dtype: np.dtype, device: str, *,
               image: bool = False, least: int = 0) -> Batch:
    """check_batch for a model of `dtype` on a device: an array on its GPU stays there, and is of that dtype.

    DLPack has its library order what it has queued on the array before the model's work.
    """
    if device == "cpu" or isinstance(x, np.ndarray) or not _is_on(x, CUDA, CUDA_MANAGED):
        return check_batch(where, x, shape, image=image, least=least)
    x = _with_signs(x)
    gpu, stream = _core.gpu_and_stream(device)
    got = int(x.__dlpack_device__()[1])
    if got != gpu:
        raise DeviceError(f"[{where}] expected an array on GPU {gpu}, where the model computes, got one on "
                          f"GPU {got}")
    try:
        try:
            capsule = x.__dlpack__(stream=stream, max_version=(1, 0))
        except TypeError:  # of a library from before versions
            capsule = x.__dlpack__(stream=stream)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"[{where}] expected an array on the GPU without gradient tracking, "
                        f"got {type(x).__name__}: {error}") from error
    taken = _core.borrow(where, capsule, device, [dtype.name, "uint8"] if image else [dtype.name])
    _check_shape(where, taken, shape, least)
    return taken


def _with_signs(x: Any) -> Any:
    """x with its signs in memory: torch keeps that of torch.imag(z.conj()) in a flag, which DLPack drops."""
    return x.resolve_neg() if hasattr(x, "resolve_neg") else x


def _is_on(x: Any, *types: int) -> bool:
    """Whether x offers DLPack, and lies on a device of these types."""
    try:
        return hasattr(x, "__dlpack__") and x.__dlpack_device__()[0] in types
    except Exception:  # of another library
        return False  # on none that there is a number for; taking it tells more


def _check_shape(where: str, x: Batch, shape: tuple[int, ...], least: int) -> None:
    if x.ndim != 1 + len(shape) or x.shape[1:] != shape:
        raise ShapeError(f"[{where}] expected {batch_shape(shape)}, got {x.shape}{_shape_hint(x.shape, shape)}")
    if x.shape[0] < least:
        raise ShapeError(f"[{where}] expected at least one sample, got an empty batch {x.shape}")


def _shape_hint(got: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """What to do about a batch that is not (N, *shape)."""
    if len(shape) == 1 and got == (0,):
        return f"; no rows are numpy.empty((0, {shape[0]}))"
    if got == shape:
        return "; one sample is x[None], of a data frame frame.iloc[[0]]"
    if shape == (1,) and len(got) == 1:
        return "; pass x[:, None], of a data frame frame[['name']]"
    if len(shape) == 1 and len(got) == 2:
        return "; rows are samples: pass x.T" if got[0] == shape[0] else f"; the model has {shape[0]} columns"
    if len(shape) == 3 and len(got) == 4 and got[1:] == (shape[2], *shape[:2]):
        return "; channels come last: pass x.transpose(0, 2, 3, 1)"
    if len(shape) == 3 and len(got) == 4 and got[1:] == (*shape[:2], shape[2] + 1):
        return "; the last of their channels may be alpha: put the images on a background, or train a model with it"
    return ""


def empty(device: str, shape: tuple[int, ...], dtype: np.dtype) -> Batch:
    """An uninitialised array in main memory ("cpu") or on a device."""
    return np.empty(shape, dtype) if device == "cpu" else _core.empty(device, shape, dtype)


@contextlib.contextmanager
def memory_for(where: str, what: str) -> Iterator[None]:
    """Within it, a MemoryError says what the memory was for."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"[{where}] expected memory for {what}, got: {error}") from error


def batch_shape(shape: tuple[int, ...]) -> str:
    """(8, 8, 1) -> "(N, 8, 8, 1)"."""
    return "(" + ", ".join(["N", *map(str, shape)]) + ")"


def to_floats(where: str, x: np.ndarray, dtype: np.dtype, first: int = 0, rows: np.ndarray | None = None,
              names: list[str] | None = None) -> np.ndarray:
    """A contiguous copy or view in `dtype`; NumericError names the first value that is not finite there.

    `first` is the number of x's first row in the user's array, or `rows` are the numbers of all. names: of the columns.
    """
    if x.dtype == dtype:
        out = np.ascontiguousarray(x if x.flags.aligned else x.copy())  # it would keep an odd address
    else:
        with np.errstate(all="ignore"):
            out = np.ascontiguousarray(x, dtype=dtype)
    at = _core.first_not_finite(out)
    if at >= 0:
        at, *place = (int(i) for i in np.unravel_index(at, out.shape))
        row = at + first if rows is None else int(rows[at])
        raise not_finite(where, x[(at, *place)], row, place, dtype, names)
    return out


def not_finite(where: str, value: Any, row: int, place: Iterable[int], dtype: np.dtype,
               names: list[str] | None = None) -> NumericError:
    """The error of a value at `place` in a row that is not finite, or too large for `dtype`."""
    rest = tuple(int(i) for i in place)
    inside = ("" if not rest else f", column {repr(names[rest[0]]) if names else rest[0]}" if len(rest) == 1
              else f", pixel ({rest[0]}, {rest[1]}), channel {rest[2]}")
    if not np.isfinite(value):
        help = "; fill it in, or leave the row out" if len(rest) == 1 and np.isnan(value) else ""
        return NumericError(f"[{where}] expected finite values, got {value} in row {row}{inside}{help}")
    hint = "; dtype float64 holds it" if abs(value) <= np.finfo(np.float64).max else ""
    return NumericError(f"[{where}] expected values that {dtype} can hold, got {value} in row {row}{inside}{hint}")


def check_labels(where: str, label: Any, n: int, classes: int, first: int = 0) -> np.ndarray | None:
    """Labels as (n,) int32, from one number for all or from n numbers; None for a model without classes.

    first: number of the first row, as in to_floats.
    """
    if classes == 0:
        if label is not None:
            raise ConfigError(f"[{where}] a label was given, but the model has no classes")
        return None
    if label is None:
        raise ConfigError(f"[{where}] expected a label in 0 ... {classes - 1}, got none "
                          f"(the model has {classes} classes)")
    y = as_numbers(where, "the labels", label)  # a plain sequence of labels is unambiguous, too
    if y.dtype.kind not in "iu":
        raise TypeError(f"[{where}] expected whole numbers as labels, got dtype {y.dtype}")
    if y.ndim > 0 and y.shape != (n,):
        raise ShapeError(f"[{where}] expected labels of shape ({n},), got {y.shape}")
    bad = np.flatnonzero((y < 0) | (y >= classes))
    if bad.size:
        raise ConfigError(f"[{where}] expected labels in 0 ... {classes - 1}, "
                          f"got {y.flat[bad[0]]} in row {bad[0] + first * y.ndim}")
    return np.ascontiguousarray(np.broadcast_to(y, (n,)), dtype=np.int32)


def take_context(where: str, context: Any, n: int, size: int, dtype: np.dtype, device: str,
                 resolve: bool = False, first: int = 0) -> Batch:
    """A context as (n, size) of the model's dtype, from n rows, or from one for all.

    resolve: NumericError for a column that varies, and not in the model's dtype.  first: as in to_floats, of n rows.
    """
    if context is None:
        raise ConfigError(f"[{where}] expected a context of {size} numbers a sample, got none")
    where = f"{where}, context"
    if device != "cpu" and _is_on(context, CUDA, CUDA_MANAGED):
        one = getattr(context, "ndim", 2) == 1
        taken = take_batch(where, context[None] if one else context, (size,), dtype, device)
        if len(taken) == n:
            return taken
        context = np.asarray(taken)[0] if one else taken
    numbers = as_numbers(where, "the context", context)
    if size == 1 and numbers.shape == (n,):
        numbers = numbers[:, None]
    if numbers.shape not in ((size,), (n, size)):
        hint = "; for one context of all samples pass its only row" if numbers.shape == (1, size) else ""
        raise ShapeError(f"[{where}] expected ({n}, {size}), or ({size},) for all samples, got {numbers.shape}{hint}")
    rows = to_floats(where, numbers.reshape(-1, size), dtype, first if numbers.ndim == 2 else 0)
    if resolve and numbers.dtype != dtype:
        _check_resolved(where, numbers.reshape(-1, size), rows)
    return rows if len(rows) == n else np.ascontiguousarray(np.broadcast_to(rows, (n, size)))


def constant_column(rows: Any) -> int | None:
    """The number of the first column that does not vary."""
    rows = np.asarray(rows)
    return next((int(c) for c in np.flatnonzero(rows.min(0) == rows.max(0))), None)


def _check_resolved(where: str, numbers: np.ndarray, rounded: np.ndarray) -> None:
    # No differences, which whole numbers may overflow in.
    lost = np.flatnonzero((numbers.min(0) < numbers.max(0)) & (rounded.min(0) == rounded.max(0)))
    if lost.size:
        at = int(lost[0])
        raise NumericError(f"[{where}] expected numbers that {rounded.dtype} tells apart, got only {rounded[0, at]} "
                           f"in column {at}; subtract an offset, or take dtype float64")


def to_uint8(x: Any, bits: int = 8) -> np.ndarray:
    """Converts images in level units to 8-bit pixels, for display and for files.

    A sample of level k lies in [k, k + 1), so values are rounded down. A value less than 2^(bits - 14) below a level
    (1/64 with 8 bits) counts as that level, so that decoded images, whole levels up to rounding errors, come back
    exactly. The largest level becomes 255, and a model of the same `bits` makes the same levels of the result.

    Parameters
    ----------
    x : array_like of float
        Images of any shape, in 0 ... 2^bits.
    bits : int
        Bits per channel, 1 ... 8.

    Returns
    -------
    ndarray of uint8
        Pixels, of the shape of x.

    Raises
    ------
    NumericError, TypeError, ConfigError
        A value is not finite, x has whole numbers, or bits is out of range.
    """
    x = as_array("to_uint8", x)
    bits = whole("to_uint8", "bits", bits)  # shifts of a numpy int8 stay in its 8 bits
    if not 1 <= bits <= 8:
        raise ConfigError(f"[to_uint8] expected bits in 1 ... 8, got {bits}")
    if x.dtype.kind != "f":
        raise TypeError(f"[to_uint8] expected float values, got dtype {x.dtype}")
    if not np.isfinite(x).all():
        raise NumericError("[to_uint8] expected finite values, got NaN or infinity")
    top = (1 << bits) - 1
    # Rounding errors of a round trip are a fraction of the range of levels. What is added moves as large a share of
    # sampled pixels up as it is of a level, which shows where levels are few.
    levels: np.ndarray = np.clip(np.floor(x + 2.0**bits * LEVEL_ERROR), 0, top).astype(np.int64)
    return (levels * 255 // top).astype(np.uint8)
