"""A trained flow as functions of JAX: inside jit, grad and vmap, on the CPU.

XLA calls the flow through its foreign function interface, without JAX arrays in between: a call of one row takes 43
microseconds, where one by jax.pure_callback takes 105. The interface is C. Its structs, of major version 0, which only
gain fields, are read here as 8-byte words, so that no compiler is needed.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import itertools
import math
import threading
import weakref
from collections.abc import Callable
from ctypes import POINTER, c_int64, c_void_p
from typing import Any, NamedTuple

import numpy as np

from evenflow._border.extras import need, outdated
from evenflow.density import Density
from evenflow.errors import ConfigError, ShapeError, wrong

OLDEST = (0, 10)
CALLS = ["log_prob", "log_prob_and_grad", "forward", "inverse", "backward", "inverse_backward"]
"""What the attribute `call` of a call by XLA numbers."""

_flows: weakref.WeakValueDictionary[int, Density] = weakref.WeakValueDictionary()
"""What its attribute `flow` numbers. The functions made from a flow own it."""
_numbers = itertools.count()
_lock = threading.Lock()
"""Held by backward passes, which all add to the gradients of the flow's parameters. Nobody reads those."""


class Functions(NamedTuple):
    """A flow's functions. Leading axes are batch axes: x (..., D), or (..., H, W, C) for images."""

    log_prob: Callable[..., Any]
    forward: Callable[..., Any]
    inverse: Callable[..., Any]


def functions(flow: Density) -> Functions:
    """Makes functions of JAX from a flow.

    The functions compute with a copy of the flow as it is now. Its parameters are constants for JAX. Gradients by x,
    z and the context come from the flow's own backward passes; forward mode and second derivatives have no rule.

    Parameters
    ----------
    flow : Flow
        On the CPU, initialised, without classes. A float64 flow needs `jax_enable_x64`.

    Returns
    -------
    log_prob : (x, context=None) -> (...)
        Log density of each row in nats.
    forward : (x, context=None) -> z (..., D), logdet (...)
    inverse : (z, context=None) -> x, logdet (...)
        Leading axes are batch axes, and a context (..., C) is broadcast against them. Results have the flow's dtype.
        An error of the flow, as for a NaN, is raised as JAX's runtime error with the flow's text.

    Raises
    ------
    MissingExtra
        JAX is not installed, or too old.
    ConfigError
        The flow is on a GPU, has classes, or is of float64 without `jax_enable_x64`.

    Examples
    --------
    >>> import evenflow.jax                                       # doctest: +SKIP
    >>> log_prob, forward, inverse = evenflow.jax.functions(flow)  # doctest: +SKIP
    >>> gradient = jax.jit(jax.vmap(jax.grad(log_prob)))(x)        # doctest: +SKIP
    """
    jax = need("jax.functions", "jax", "jax", "jax")
    if jax.__version_info__ < OLDEST:
        raise outdated("jax.functions", "jax", ".".join(map(str, OLDEST)), jax.__version__)
    if flow.device != "cpu":
        raise wrong(ConfigError, "jax.functions", "flow", f'the flow is on {flow.device!r}; load it with device="cpu"')
    if flow.classes:
        raise wrong(ConfigError, "jax.functions", "flow", "a flow with classes has no functions of JAX")
    if jax.dtypes.canonicalize_dtype(flow.dtype) != flow.dtype:
        raise wrong(ConfigError, "jax.functions", "flow", "the flow is of float64, which JAX needs jax_enable_x64 for")
    _register(jax.ffi)
    flow = copy.deepcopy(flow)
    number = next(_numbers)
    _flows[number] = flow

    def call(name: str, arrays: Any, row: tuple[int, ...], shapes: list[tuple[int, ...]]) -> Any:
        batch = arrays[0].shape[:arrays[0].ndim - len(row)]
        results = [jax.ShapeDtypeStruct(batch + shape, flow.dtype) for shape in shapes]
        return jax.ffi.ffi_call("evenflow", results, vmap_method="broadcast_all")(
            *arrays, call=np.int64(CALLS.index(name)), flow=np.int64(number))

    def taken(where: str, x: Any, context: Any, row: tuple[int, ...]) -> tuple[Any, ...]:
        x = jax.numpy.asarray(x, flow.dtype)
        if x.shape[x.ndim - len(row):] != row:
            raise wrong(ShapeError, f"jax.{where}", "z" if where == "inverse" else "x",
                        f"expected (..., {', '.join(map(str, row))}), got {x.shape}")
        if (context is None) != (flow.context == 0):
            raise wrong(ConfigError, f"jax.{where}", "context",
                        f"the flow {'needs a' if flow.context else 'takes no'} context")
        if context is None:
            return (x,)
        context = jax.numpy.asarray(context, flow.dtype)
        if context.shape[-1:] != (flow.context,):
            raise wrong(ShapeError, f"jax.{where}", "context",
                        f"expected a context (..., {flow.context}), got {context.shape}")
        batch = jax.numpy.broadcast_shapes(x.shape[:x.ndim - len(row)], context.shape[:-1])
        return jax.numpy.broadcast_to(x, batch + row), jax.numpy.broadcast_to(context, (*batch, flow.context))

    shape, latent, given = flow.shape, (flow.dims,), [(flow.context,)] if flow.context else []

    @jax.custom_vjp  # type: ignore[untyped-decorator]
    def score(*arrays: Any) -> Any:
        return call("log_prob", arrays, shape, [()])[0]

    def score_and_grads(*arrays: Any) -> Any:
        result, *grads = call("log_prob_and_grad", arrays, shape, [(), shape, *given])
        return result, grads

    def score_vjp(grads: list[Any], d: Any) -> tuple[Any, ...]:
        return tuple(grad * d.reshape(d.shape + (1,) * (grad.ndim - d.ndim)) for grad in grads)

    score.defvjp(score_and_grads, score_vjp)

    def transform(name: str, backward: str, source: tuple[int, ...], target: tuple[int, ...]) -> Any:
        @jax.custom_vjp  # type: ignore[untyped-decorator]
        def apply(*arrays: Any) -> Any:
            return tuple(call(name, arrays, source, [target, ()]))

        def keep(*arrays: Any) -> Any:
            results = apply(*arrays)
            return results, (results[0], *arrays)

        def vjp(kept: tuple[Any, ...], d: tuple[Any, ...]) -> tuple[Any, ...]:
            result, *arrays = kept
            return tuple(call(backward, (result, *d, *arrays), target, [source, *given]))

        apply.defvjp(keep, vjp)
        return apply

    forwards = transform("forward", "backward", shape, latent)
    inverses = transform("inverse", "inverse_backward", latent, shape)

    def log_prob(x: Any, context: Any = None) -> Any:
        return score(*taken("log_prob", x, context, shape))

    def forward(x: Any, context: Any = None) -> Any:
        return forwards(*taken("forward", x, context, shape))

    def inverse(z: Any, context: Any = None) -> Any:
        return inverses(*taken("inverse", z, context, latent))

    return Functions(log_prob, forward, inverse)


# Words of XLA's structs. All begin with their size and a pointer to an extension, but for the metadata.
API, ARGUMENTS, RESULTS, ATTRIBUTES = 2, 7, 12, 20
"""Of a frame: a pointer; numbers of buffers, after which pointers to their types and to them follow; and a pointer to
pointers to attributes, sorted by name."""
VERSION, MAKE_ERROR = 4, 6
"""Of the API. The lower half of the first is the major version, and the upper one the minor one."""
METADATA = 3
"""Of an extension: a pointer to the metadata, whose word of this number is as VERSION. XLA's first call asks by it for
the version of the interface that the handler was written for. The lower half of an extension's word 1 is then 1."""
DATA, RANK, DIMS = 3, 4, 5
"""Of a buffer."""
INVALID_ARGUMENT = 3
"""XLA's code of an error."""


def _words(address: int) -> Any:
    return ctypes.cast(address, POINTER(c_int64))


@functools.cache
def _register(ffi: Any) -> Any:
    """Makes the handler known to XLA, once. The cache keeps it alive."""
    handler = ctypes.CFUNCTYPE(c_void_p, c_void_p)(_handle)
    ffi.register_ffi_target("evenflow", ffi.pycapsule(handler), platform="cpu")
    return handler


def _handle(address: int) -> int | None:
    """One call by XLA. Returns null, or an error that XLA owns."""
    frame = _words(address)
    api = _words(frame[API])
    try:
        if frame[1] and _words(frame[1])[1] & 0xffffffff == 1:
            _words(_words(frame[1])[METADATA])[METADATA] = api[VERSION] >> 32 << 32
            return None
        attributes = _words(frame[ATTRIBUTES])
        call, number = (_words(_words(attributes[i])[1])[0] for i in range(2))
        flow = _flows.get(number)
        if flow is None:
            raise ConfigError("[jax] the functions of this compiled program were deleted; keep what "
                              "evenflow.jax.functions returned for as long as the program runs")
        _run(flow, CALLS[call], *([_array(_words(_words(frame[first + 2])[i]), flow.dtype) for i in range(frame[first])]
                                  for first in (ARGUMENTS, RESULTS)))
        return None
    except Exception as error:
        text = ctypes.create_string_buffer(str(error).encode())
        message = (c_int64 * 4)(32, 0, ctypes.addressof(text), INVALID_ARGUMENT)
        return int(ctypes.CFUNCTYPE(c_void_p, c_void_p)(api[MAKE_ERROR])(ctypes.addressof(message)) or 0)


def _array(buffer: Any, dtype: np.dtype) -> np.ndarray:
    """An array in a buffer's memory."""
    shape = tuple(_words(buffer[DIMS])[:buffer[RANK]]) if buffer[RANK] else ()
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(buffer[DATA]) if size else b"", dtype).reshape(shape)


def _run(flow: Density, call: str, arguments: list[np.ndarray], results: list[np.ndarray]) -> None:
    """Calls the flow with all batch axes as one."""
    row = (flow.dims,) if call in ("inverse", "backward") else flow.shape
    axes = arguments[0].ndim - len(row)
    n = int(np.prod(arguments[0].shape[:axes]))
    arrays = [array.reshape(n, *array.shape[axes:]) for array in arguments]
    named = {"context": arrays.pop()} if flow.context else {}
    if call in ("log_prob", "forward", "inverse"):
        found = getattr(flow, call)(*arrays, **named)
        found = found if isinstance(found, tuple) else (found,)
    else:
        dcontext = [np.zeros_like(context) for context in named.values()]
        named.update(zip(["dcontext"], dcontext))
        if call != "log_prob_and_grad":
            named["truth" if call == "backward" else "z"] = arrays.pop()
        with _lock:
            found = getattr(flow, call)(*arrays, **named)
        found = (found if call == "log_prob_and_grad" else found[1:]) + tuple(dcontext)
    for result, value in zip(results, found):
        result[...] = value.reshape(result.shape)
