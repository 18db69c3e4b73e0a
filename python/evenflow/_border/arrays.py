"""Arrays at the border: what a user hands in becomes what the core takes, or an error with the argument's name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from evenflow import _core
from evenflow._border.checks import whole
from evenflow._border.rows import Rows, stays_outside
from evenflow._core import DeviceArray
from evenflow.errors import ConfigError, DeviceError, Kind, NumericError, ShapeError, wrong

Taken = np.ndarray | DeviceArray
"""An array of a call, in main memory or on the GPU where the model computes."""

LEVEL_ERROR = 2.0**-14
"""How far below a level a value may be and still count as it, of the range: four times a decoded photograph's worst."""

CUDA, CUDA_MANAGED = 2, 13
"""DLPack's types of devices."""


def _wrong(kind: type[Kind], where: str, name: str, text: str, **place: Any) -> Kind:
    """The error "expected ..., got ..." of an array, which the text names if it is not the data."""
    return wrong(kind, where, name, text if name == "x" else text.replace(", got", f" for {name}, got", 1), **place)


def as_array(where: str, x: Any, name: str = "x") -> Any:
    """x as a numpy array, without a copy where the exporter allows it; Rows stay unread. TypeError."""
    if type(x) is np.ndarray:  # a call for one row should not wait for the rest
        return x
    refuse_masked(where, x, name)
    if isinstance(x, (np.ndarray, Rows)):
        return x
    if hasattr(x, "to_numpy") and names_of(x) is not None:
        return _values_of_frame(where, x, name)
    why: Any = ""
    try:
        if hasattr(x, "__array__") or isinstance(x, (list, tuple, int, float)):
            return np.asarray(x)
        if hasattr(x, "__dlpack__"):
            return np.from_dlpack(x)
    except Exception as error:  # of another library
        why = error
    hint = "; inside JAX's jit and grad use evenflow.jax" if "Tracer" in type(x).__name__ else ""
    raise _wrong(TypeError, where, name, "expected an array, numbers, or what has __dlpack__ or __array__, in main "
                 f"memory and without gradient tracking, got {type(x).__name__}{f': {why}' if why else ''}{hint}")


def names_of(x: Any) -> list[str] | None:
    """Names of the columns of a data frame of pandas, polars or pyarrow; None for anything else."""
    names = getattr(x, "column_names", getattr(x, "columns", None))  # pyarrow's `columns` are the values
    return None if names is None or not hasattr(x, "shape") else [str(name) for name in names]


def check_names(where: str, name: str, x: Any, wanted: list[str] | None) -> None:
    """ShapeError for a data frame, or a row of one, whose columns are not those that are wanted, in that order."""
    if wanted is None or type(x) is np.ndarray:
        return
    names = names_of(x)
    index: Any = getattr(x, "index", None)
    if hasattr(index, "dtype") and getattr(x, "ndim", 0) == 1:  # a row of pandas' frame
        row = list(map(str, index))
        names = row if sorted(row) == sorted(wanted) else names
    if names is not None and names != wanted:
        told = [f"{one} is missing" for one in wanted if one not in names] + [
            f"{one} is unexpected" for one in names if one not in wanted] or [f"pass frame[{wanted}]"]
        raise _wrong(ShapeError, where, name, "expected the columns that the flow was trained on, got others or "
                     f"another order; {', '.join(told)}")


def _values_of_frame(where: str, frame: Any, name: str) -> np.ndarray:
    """The numbers of a data frame; missing values, also of nullable integers, are NaN."""
    values = np.asarray(frame.to_numpy())
    if values.dtype.kind != "O":
        return values
    for column, dtype in zip(names_of(frame) or (), frame.dtypes):  # of pandas, with nullable types among them
        if getattr(dtype, "kind", "O") not in "iuf":
            raise wrong(TypeError, where, name,
                        f"column {column!r} holds {dtype}, not numbers; leave it out or convert it", column=column)
    return np.asarray(frame.to_numpy(dtype=np.float64, na_value=np.nan))


def refuse_masked(where: str, x: Any, name: str = "x") -> None:
    """TypeError for masked values, also in a list, which numpy hands out as if they were ordinary ones."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise _wrong(TypeError, where, name,
                     f"expected no masked values, got {x.mask.sum()}; fill them, or leave their rows out")
    for part in x if isinstance(x, (list, tuple)) else ():
        if isinstance(part, (list, tuple, np.ma.MaskedArray)):
            refuse_masked(where, part, name)


def as_numbers(where: str, name: str, values: Any) -> np.ndarray:
    """Real numbers of any shape, from an array or from (nested) lists, in their own dtype. TypeError."""
    return np.asarray(_numbers(where, values, name))


def _numbers(where: str, x: Any, name: str) -> Any:
    x = as_array(where, x, name)
    if x.dtype.kind not in "iuf":
        hint = f"; convert them with {name}.astype(float)" if x.dtype.kind in "bO" else ""
        raise _wrong(TypeError, where, name, f"expected numbers, got dtype {x.dtype}{hint}")
    return x


def check_batch(where: str, x: Any, shape: tuple[int, ...], *, name: str = "x", image: bool = False,
                least: int = 0) -> np.ndarray:
    """A batch (N, *shape) of floats, or of uint8 for images; other integers become one of these.

    Floats are not looked at.

    least: smallest N.
    """
    if type(x) is not np.ndarray or x.dtype.kind != "f":  # a call for one row should not wait for the rest
        x = _numbers(where, x, name)
        if x.dtype.kind != "f" and not (image and x.dtype == np.uint8):
            if image and x.size and not 0 <= x.min() <= x.max() <= 255:
                raise _wrong(ConfigError, where, name,
                             f"expected integer pixels in 0 ... 255, got {x.min()} ... {x.max()}")
            if image or not stays_outside(x):  # of a file each row is converted as it is read
                x = x.astype(np.uint8 if image else np.float64)
    _check_shape(where, x, shape, least, name)
    return x  # type: ignore[no-any-return]


def take_batch(where: str, x: Any, shape: tuple[int, ...], dtype: np.dtype, device: str, *, name: str = "x",
               image: bool = False, least: int = 0) -> Taken:
    """check_batch for a model of `dtype` on a device: an array on its GPU stays there, and is of that dtype.

    DLPack has its library order what it has queued on the array before the model's work.
    """
    if device == "cpu" or isinstance(x, np.ndarray) or not _is_on_gpu(x):
        return check_batch(where, x, shape, name=name, image=image, least=least)
    x = x.resolve_neg() if hasattr(x, "resolve_neg") else x  # torch's DLPack would drop this flag
    gpu, stream = _core.gpu_and_stream(device)
    got = int(x.__dlpack_device__()[1])
    if got != gpu:
        raise _wrong(DeviceError, where, name,
                     f"expected an array on GPU {gpu}, where the model computes, got one on GPU {got}")
    try:
        capsule = x.__dlpack__(stream=stream)
    except Exception as error:  # of another library
        raise _wrong(TypeError, where, name, "expected an array on the GPU without gradient tracking, "
                                             f"got {type(x).__name__}: {error}") from error
    taken = _core.borrow(where, capsule, device, [dtype.name, "uint8"] if image else [dtype.name])
    _check_shape(where, taken, shape, least, name)
    return taken


def _is_on_gpu(x: Any) -> bool:
    """Whether x offers DLPack, and lies on a GPU."""
    try:
        return hasattr(x, "__dlpack__") and x.__dlpack_device__()[0] in (CUDA, CUDA_MANAGED)
    except Exception:  # of another library
        return False  # on none that there is a number for; taking it tells more


def _check_shape(where: str, x: Taken, shape: tuple[int, ...], least: int, name: str) -> None:
    if x.ndim != 1 + len(shape) or x.shape[1:] != shape:
        raise _wrong(ShapeError, where, name,
                     f"expected {batch_shape(shape)}, got {x.shape}{_shape_hint(x.shape, shape, name)}")
    if x.shape[0] < least:
        raise _wrong(ShapeError, where, name, f"expected at least one sample, got an empty batch {x.shape}")


def _shape_hint(got: tuple[int, ...], shape: tuple[int, ...], name: str) -> str:
    """What to do about a batch that is not (N, *shape)."""
    if got == shape and shape:
        return f"; one sample is {name}[None], of a data frame frame.iloc[[0]]"
    if shape == (1,) and len(got) == 1:
        return f"; pass {name}[:, None], of a data frame frame[['name']]"
    if len(shape) == 1 and len(got) == 2 and got[0] == shape[0]:
        return f"; rows are samples: pass {name}.T"
    if len(shape) == 3 and len(got) == 4 and got[1:] == (shape[2], *shape[:2]):
        return f"; channels come last: pass {name}.transpose(0, 2, 3, 1)"
    return ""


def wrong_levels(x: Taken, bits: int, beyond: float = 0.0) -> str:
    """What is wrong with the range of a batch of images, such as torch's in [0, 1]; nothing if they are in level units.

    beyond: how far it may reach beyond the levels, in units of their range.
    """
    if not len(x) or isinstance(x, DeviceArray):
        return ""
    low, high, top = float(np.min(x)), float(np.max(x)), 2**bits
    if x.dtype == np.uint8:
        return "" if not 0 < high < top < 256 else (
            f"these pixels lie in 0 ... {high:g}, but pixels have 8 bits, of which a model of {bits} takes the upper "
            f"ones; pass {256 // top} * x, or floats in 0 ... {top}")
    told = ""
    if 0 <= low and high <= 1 and bits > 1:
        told = f"these images lie in [0, 1], but a model of {bits} bits expects levels 0 ... {top - 1}"
    elif np.isfinite(high - low) and (low < -beyond * top or high > (1 + beyond) * top):
        told = f"expected image levels in 0 ... {top}, got values in {low:g} ... {high:g}"
    return f"{told}; pass uint8 pixels, or floats in 0 ... {top}" if told else ""


def empty(device: str, shape: tuple[int, ...], dtype: np.dtype) -> Taken:
    """An uninitialised array in main memory ("cpu") or on a device."""
    return np.empty(shape, dtype) if device == "cpu" else _core.empty(device, shape, dtype)


def batch_shape(shape: tuple[int, ...]) -> str:
    """(8, 8, 1) -> "(N, 8, 8, 1)", and () -> "(N,)"."""
    return f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"


def to_floats(where: str, x: np.ndarray, dtype: np.dtype, first: int = 0, rows: np.ndarray | None = None,
              names: list[str] | None = None, name: str = "x") -> np.ndarray:
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
        error = not_finite(where, x[(at, *place)], row, place, dtype, names, name)
        counts = (~np.isfinite(out)).sum(0) if len(place) == 1 else np.zeros(0, int)
        if counts.sum() > 1:  # the rest, too, lest they are found one by one
            of = (f"{counts[j]} in column {names[j] if names else j!r}" for j in np.flatnonzero(counts).tolist())
            error.args = (f"{error}; such values in the {len(out)} rows looked at: {', '.join(of)}",)
        raise error
    return out


def not_finite(where: str, value: Any, row: int, place: Iterable[int], dtype: np.dtype,
               names: list[str] | None = None, name: str = "x") -> NumericError:
    """The error of a value at `place` in a row that is not finite, or too large for `dtype`."""
    rest = tuple(int(i) for i in place)
    column = None if len(rest) != 1 else names[rest[0]] if names else rest[0]
    inside = ("" if not rest else f", column {column!r}" if len(rest) == 1
              else f", pixel ({rest[0]}, {rest[1]}), channel {rest[2]}")
    wanted, hint = "finite values", ""
    if np.isfinite(value):
        wanted, hint = f"values that {dtype} can hold", "; dtype float64 holds it" if abs(value) < 1e308 else ""
    elif np.isnan(value) and len(rest) == 1 and name in ("x", "context"):
        hint = "; fill it in, or leave the row out"
    return _wrong(NumericError, where, name, f"expected {wanted}, got {value} in row {row}{inside}{hint}", row=row,
                  column=column)


def check_labels(where: str, label: Any, n: int, classes: int, first: int = 0) -> np.ndarray | None:
    """Labels as (n,) int32, from one number for all or from n numbers; None for a model without classes.

    first: number of the first row, as in to_floats.
    """
    if classes == 0:
        if label is None:
            return None
        raise wrong(ConfigError, where, "label", "a label was given, but the model has no classes")
    if label is None:
        raise wrong(ConfigError, where, "label",
                    f"expected a label in 0 ... {classes - 1}, got none (the model has {classes} classes)")
    y = as_numbers(where, "label", label)  # a plain sequence of labels is unambiguous, too
    if y.dtype.kind not in "iu":
        raise wrong(TypeError, where, "label", f"expected whole numbers for label, got dtype {y.dtype}")
    if y.ndim > 0 and y.shape != (n,):
        raise wrong(ShapeError, where, "label", f"expected label of shape ({n},), got {y.shape}")
    for at in np.flatnonzero((y < 0) | (y >= classes))[:1]:
        row = int(at) + first * y.ndim
        raise wrong(ConfigError, where, "label",
                    f"expected label in 0 ... {classes - 1}, got {y.flat[at]} in row {row}", row=row)
    return np.ascontiguousarray(np.broadcast_to(y, (n,)), dtype=np.int32)


def take_context(where: str, context: Any, n: int, size: int, dtype: np.dtype, device: str, first: int = 0) -> Taken:
    """A context as (n, size) of the model's dtype, from n rows, or from one for all. first: as in to_floats."""
    if context is None:
        raise wrong(ConfigError, where, "context", f"expected a context of {size} numbers a sample, got none")
    if device != "cpu" and _is_on_gpu(context):
        one = getattr(context, "ndim", 2) == 1
        taken = take_batch(where, context[None] if one else context, (size,), dtype, device, name="context")
        if len(taken) == n:
            return taken
        context = np.asarray(taken)[0] if one else taken
    numbers = as_numbers(where, "context", context)
    if size == 1 and numbers.shape == (n,):
        numbers = numbers[:, None]
    if numbers.shape not in ((size,), (n, size)):
        hint = "; for one context of all samples pass its only row" if numbers.shape == (1, size) else ""
        raise wrong(ShapeError, where, "context", f"expected ({n}, {size}) for context, or ({size},) for all samples, "
                                                  f"got {numbers.shape}{hint}")
    rows = to_floats(where, numbers.reshape(-1, size), dtype, first if numbers.ndim == 2 else 0, name="context")
    return rows if len(rows) == n else np.ascontiguousarray(np.broadcast_to(rows, (n, size)))


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
    x, bits = as_array("to_uint8", x), whole("to_uint8", "bits", bits, 1, 8)
    if x.dtype.kind != "f":
        raise wrong(TypeError, "to_uint8", "x", f"expected float values, got dtype {x.dtype}")
    if not np.isfinite(x).all():
        raise wrong(NumericError, "to_uint8", "x", "expected finite values, got NaN or infinity")
    top = (1 << bits) - 1
    # Rounding errors of a round trip are a fraction of the range of levels. What is added moves as large a share of
    # sampled pixels up as it is of a level, which shows where levels are few.
    levels: np.ndarray = np.clip(np.floor(x + 2.0**bits * LEVEL_ERROR), 0, top).astype(np.int64)
    return (levels * 255 // top).astype(np.uint8)
