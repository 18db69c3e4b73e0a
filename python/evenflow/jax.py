"""A trained flow as functions of JAX: inside jit, grad and vmap, on the CPU.

XLA calls the flow through its foreign function interface, without JAX arrays in between. The interface's C structs are
declared here with ctypes, so that no compiler is needed. They are those of major version 0, which only gain fields.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import itertools
import threading
import weakref
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any, NamedTuple

import numpy as np

from evenflow.density import Density
from evenflow.errors import ConfigError, ShapeError
from evenflow._border.extras import need, outdated

OLDEST = (0, 10)

# Numbers of XLA's interface.
METADATA = 1
INVALID_ARGUMENT = 3
DTYPES: dict[int, np.dtype[Any]] = {11: np.dtype(np.float32), 12: np.dtype(np.float64)}

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
        raise ConfigError(f"[jax.functions] the flow is on {flow.device!r}; load it with device=\"cpu\"")
    if flow.classes:
        raise ConfigError("[jax.functions] a flow with classes has no functions of JAX")
    if jax.dtypes.canonicalize_dtype(flow.dtype) != flow.dtype:
        raise ConfigError("[jax.functions] the flow is of float64, which JAX needs jax_enable_x64 for")
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
            raise ShapeError(f"[jax.{where}] expected (..., {', '.join(map(str, row))}), got {x.shape}")
        if (context is None) != (flow.context == 0):
            raise ConfigError(f"[jax.{where}] the flow {'needs a' if flow.context else 'takes no'} context")
        if context is None:
            return (x,)
        context = jax.numpy.asarray(context, flow.dtype)
        if context.shape[-1:] != (flow.context,):
            raise ShapeError(f"[jax.{where}] expected a context (..., {flow.context}), got {context.shape}")
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


class Version(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("extension", c_void_p), ("major", c_int), ("minor", c_int)]


class Metadata(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("version", Version)]


class Extension(ctypes.Structure):
    """XLA's first call asks by it for the version of the interface that the handler was written for."""

    _fields_ = [("size", c_size_t), ("type", c_int), ("next", c_void_p), ("metadata", POINTER(Metadata))]


class ErrorArguments(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("extension", c_void_p), ("message", c_char_p), ("code", c_int)]


class Api(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("extension", c_void_p), ("version", Version), ("internal", c_void_p),
                ("make_error", ctypes.CFUNCTYPE(c_void_p, POINTER(ErrorArguments)))]


class Buffer(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("extension", c_void_p), ("dtype", c_int), ("data", c_void_p), ("rank", c_int64),
                ("dims", POINTER(c_int64))]


class Buffers(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("extension", c_void_p), ("count", c_int64), ("types", c_void_p),
                ("values", POINTER(POINTER(Buffer)))]


class Scalar(ctypes.Structure):
    _fields_ = [("dtype", c_int), ("value", POINTER(c_int64))]


class Attributes(ctypes.Structure):
    """Sorted by name."""

    _fields_ = [("size", c_size_t), ("extension", c_void_p), ("count", c_int64), ("types", c_void_p),
                ("names", c_void_p), ("values", POINTER(POINTER(Scalar)))]


class Frame(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("extension", POINTER(Extension)), ("api", POINTER(Api)), ("context", c_void_p),
                ("stage", c_int), ("arguments", Buffers), ("results", Buffers), ("attributes", Attributes)]


@functools.cache
def _register(ffi: Any) -> Any:
    """Makes the handler known to XLA, once. The cache keeps it alive."""
    handler = ctypes.CFUNCTYPE(c_void_p, POINTER(Frame))(_handle)
    ffi.register_ffi_target("evenflow", ffi.pycapsule(handler), platform="cpu")
    return handler


def _handle(frame: Any) -> Any:
    """One call by XLA. Returns null, or an error that XLA owns."""
    frame = frame.contents
    try:
        if frame.extension and frame.extension.contents.type == METADATA:
            version = frame.extension.contents.metadata.contents.version
            version.major, version.minor = 0, frame.api.contents.version.minor
            return None
        call, number = (frame.attributes.values[i].contents.value.contents.value for i in range(2))
        flow = _flows.get(number)
        if flow is None:
            raise ConfigError("[jax] the functions of this compiled program were deleted; keep what "
                              "evenflow.jax.functions returned for as long as the program runs")
        _run(flow, CALLS[call], _arrays(frame.arguments), _arrays(frame.results))
        return None
    except Exception as error:
        message = ErrorArguments(ctypes.sizeof(ErrorArguments), None, str(error).encode(), INVALID_ARGUMENT)
        return frame.api.contents.make_error(ctypes.byref(message))


def _arrays(buffers: Any) -> list[np.ndarray]:
    """XLA's buffers as arrays, in their memory."""
    arrays = []
    for i in range(buffers.count):
        buffer = buffers.values[i].contents
        shape, dtype = tuple(buffer.dims[:buffer.rank]), DTYPES[buffer.dtype]
        size = int(np.prod(shape)) * dtype.itemsize
        memory: Any = (ctypes.c_char * size).from_address(buffer.data) if size else b""
        arrays.append(np.frombuffer(memory, dtype).reshape(shape))
    return arrays


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
