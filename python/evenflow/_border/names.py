"""What an argument is called here, for those who know it by another library's name."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

from evenflow.errors import wrong

ELSEWHERE = {name: ours for ours, theirs in {
    ("shape",): ("features", "dim", "dims", "input_shape"),
    ("couplings", "steps"): ("num_layers", "n_layers", "num_flows", "n_flows", "transforms", "flow_layers"),
    ("hidden",): ("hidden_features", "hidden_channels", "hidden_units", "hidden_dims", "nn_width"),
    ("classes",): ("num_classes", "n_classes"),
    ("context",): ("context_features", "cond_dim"),
    ("bins",): ("num_bins", "knots"),
    ("bound",): ("tail_bound", "interval"),
    ("law",): ("coupling", "transformer"),
    ("base",): ("prior", "base_dist"),
    ("lr",): ("learning_rate",),
    ("epochs",): ("n_epochs", "num_epochs", "max_epochs"),
    ("valid",): ("validation_data", "x_valid", "val"),
    ("clip",): ("max_norm", "clip_grad", "grad_clip", "clip_grad_norm", "max_grad_norm"),
    ("sample_weight",): ("weights",),
    ("label",): ("y", "labels"),
    ("beta1",): ("betas", "b1"),
    ("decay",): ("alpha",),
}.items() for name in theirs}
"""Names of arguments in other libraries, and ours, of which a callable has at most one."""

Call = TypeVar("Call", bound=Callable[..., Any])


def nearest(name: str, known: Collection[str], value: Any = None, usual: dict[str, Any] | None = None) -> str | None:
    """The known name that was probably meant; first one whose usual value is of the given value's type."""
    near = [*(our for our in ELSEWHERE.get(name, ()) if our in known), *difflib.get_close_matches(name, known, n=1)]
    return next((one for one in near if type((usual or {}).get(one)) is type(value)), near[0] if near else None)


def hinted(call: Call, hint: Callable[[str], str] = lambda name: "") -> Call:
    """Answers an unknown argument with the name that was probably meant, which Python's own error doesn't.

    Signature and docstring stay, for editors and `help`. hint: words for names that go in by another argument.
    """
    code = call.__code__
    known = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    where = call.__qualname__.removesuffix(".__init__").rpartition(".")[2]

    @functools.wraps(call)
    def checked(*args: Any, **named: Any) -> Any:
        for name, value in named.items():
            if name not in known:
                ours = [*ELSEWHERE.get(name, ()), name]
                near = nearest(name, known, value, call.__kwdefaults__)
                told = next((text for our in ours if our not in known and (text := hint(our))),
                            f"; did you mean {near!r}?" if near else "")
                raise wrong(TypeError, where, name, f"unexpected argument {name!r}{told}")
        return call(*args, **named)

    return cast(Call, checked)
