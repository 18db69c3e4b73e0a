"""A trained flow as functions of JAX: inside jit, grad and vmap, on the CPU.

XLA hands the flow the memory of its arrays (buffer_callback): a call of one row takes 40 microseconds, where one by
jax.pure_callback takes 105.
"""

from __future__ import annotations

import copy
import functools
import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from evenflow._border.extras import need, outdated
from evenflow.density import Density
from evenflow.errors import ConfigError, ShapeError, wrong

OLDEST = (0, 10)


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
    buffer_callback = need("jax.functions", "jax.experimental.buffer_callback", "jax", "jax").buffer_callback
    flow, lock = copy.deepcopy(flow), threading.Lock()  # backward passes add to the parameters' gradients

    shape, latent, given = flow.shape, (flow.dims,), [(flow.context,)] if flow.context else []

    @functools.cache  # JAX compiles anew for another function
    def callback(method: str) -> Callable[..., None]:
        """Calls a method of the flow with all batch axes as one."""
        axes = 1 if method in ("inverse", "backward") else len(shape)

        def run(_: Any, results: list[Any], *buffers: Any) -> None:
            arrays = [np.asarray(buffer) for buffer in buffers]
            batch = arrays[0].shape[:arrays[0].ndim - axes]
            arrays = [array.reshape(math.prod(batch), *array.shape[len(batch):]) for array in arrays]
            for result, value in zip(map(np.asarray, results), _called(flow, method, arrays, lock)):
                result[...] = value.reshape(result.shape)

        return run

    def call(method: str, arrays: Any, row: tuple[int, ...], shapes: list[tuple[int, ...]]) -> Any:
        batch = arrays[0].shape[:arrays[0].ndim - len(row)]
        results = [jax.ShapeDtypeStruct(batch + shape, flow.dtype) for shape in shapes]
        return buffer_callback(callback(method), results, vmap_method="broadcast_all")(*arrays)

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


def _called(flow: Density, method: str, arrays: list[np.ndarray], lock: threading.Lock) -> tuple[np.ndarray, ...]:
    named = {"context": arrays.pop()} if flow.context else {}
    if method in ("log_prob", "forward", "inverse"):
        found = getattr(flow, method)(*arrays, **named)
        return found if isinstance(found, tuple) else (found,)
    dcontext = [np.zeros_like(context) for context in named.values()]
    named.update(zip(["dcontext"], dcontext))
    if method != "log_prob_and_grad":
        named["truth" if method == "backward" else "z"] = arrays.pop()
    with lock:
        found = getattr(flow, method)(*arrays, **named)
    return (*(found if method == "log_prob_and_grad" else found[1:]), *dcontext)
