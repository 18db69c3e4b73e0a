"""Flow: the public class of every model, a `Density` that can be trained, saved and tested."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from evenflow import checkpoint, density, optim
from evenflow._border import checks
from evenflow.density import Density, compiled
from evenflow.errors import ConfigError, ShapeError
from evenflow._border.names import hinted

if TYPE_CHECKING:
    from evenflow.importance import ImportanceSamples
    from evenflow.training.history import History
    from evenflow.training.settings import Settings
    from evenflow.verify import Report

Auto = Literal["auto"]


def _by_settings(name: str) -> str:
    """Where an argument goes that `fit` does not take by name."""
    from evenflow.training.settings import KINDS
    if name.startswith("valid_"):
        return "; pass valid=dict(x=..., context=..., sample_weight=...)"
    return f"; pass settings=ef.Settings({name}=...)" if name in KINDS else ""


class Flow(Density):
    """A normalizing flow x <-> z with exact log density. Made by Glow, RealNVP, NICE, CouplingFlow or `load`.

    Tables are (N, D). Images are (N, H, W, C), as uint8 or as floats in level units 0 ... 2^bits. Arrays in are
    numpy, lists, data frames, or anything with DLPack or `__array__`; arrays out are numpy, of the model's dtype.
    Latents are flat, (N, D). log_prob is in nats, for the density in the units of the data. Log-determinants are
    float64, one a sample. The columns of a data frame are checked by name, once one has initialised the flow.

    A model of device="cuda" also takes arrays on its GPU from any library with DLPack, and leaves them there:
    C-contiguous, of the model's dtype or uint8 for images, log-determinants float64. A call whose first array is on
    the GPU returns DeviceArrays. Labels and weights are in main memory. See "GPUs" in the documentation.

    A conditional density takes its conditions in every call: `label`, for a model with classes, and `context`, for a
    model with a context.

    Errors: TypeError for a wrong dtype, ShapeError for a wrong shape, NumericError for NaN or infinity in the data
    (with its place), ConfigError for a label or context that is missing, unknown or not the model's, and before
    `init`; DeviceError for an array of another GPU.

    Calls that only read the model (forward, inverse, log_prob, sample, encode, decode, save) may run in several
    threads at once, and release the GIL. Calls that write it (init, loss_and_grad, train_step, backward, fit) need the
    flow for themselves: others beside them may return mixed numbers, but nothing crashes. The child of a fork
    computes on one thread if its parent had several; the bits are the same. copy, deepcopy and pickle give an
    independent flow with the same values and threads, without gradients, on the CPU.
    """

    def __init__(self, config: dict[str, Any], device: str = "cpu", threads: int = 0):
        self._threads = threads
        super().__init__(compiled(str(config.get("model", "config")), config, device, threads))

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in self._config.items() if k not in ("model", "shape"))
        state = "initialised" if self.initialized else "not initialised"
        return f"<{self._config['model']} {self.shape}, {settings}: {self.num_params} parameters, {state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy, deepcopy and pickle: class, settings, values, and whatever else a subclass has."""
        rest = {name: value for name, value in vars(self).items() if name not in self._made}
        return _restored, (type(self), self.config, self._core.values.copy(), self._threads), rest

    @hinted
    def train_step(self, x: ArrayLike, optimizer: optim.Optimizer, *, label: ArrayLike | None = None,
                   context: ArrayLike | None = None, seed: int | None = None, sample_weight: ArrayLike | None = None,
                   clip: float = 0.0, average: optim.MovingAverage | None = None,
                   activation_budget: int | None = None) -> float:
        """Makes one training step. Faster than the calls that it stands for:
        `zero_grad`, `loss_and_grad`, `clip_grad_norm` if clip is not 0, `optimizer.step()`, `average.update()`.

        Parameters
        ----------
        x, label, context, seed, sample_weight, activation_budget
            As in `loss_and_grad`.
        optimizer : Optimizer
            Made for this flow.
        clip : float
            Largest L2 norm of the gradient; 0: not clipped.
        average : MovingAverage, optional
            Made for this flow.

        Returns
        -------
        float
            The loss before the update, in nats a sample.

        Raises
        ------
        ShapeError, ConfigError
            An argument doesn't fit the model. Nothing is changed.
        NumericError
            The loss or a gradient is not finite. Values are unchanged and `grads` are zero.

        See Also
        --------
        fit : A whole training.
        loss_and_grad : The loss, without a step.

        Examples
        --------
        >>> x, _ = ef.data.two_moons(1000, seed=0)
        >>> flow = ef.CouplingFlow(2)
        >>> flow.init(x)
        >>> optimizer = ef.Adam(flow, lr=1e-3)
        >>> losses = [flow.train_step(x, optimizer, clip=20.0) for _ in range(10)]
        >>> losses[-1] < losses[0]
        True
        """
        where = "train_step"
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(f"[{where}] expected an optimizer of evenflow, got {type(optimizer).__name__}")
        if average is not None and not isinstance(average, optim.MovingAverage):
            raise TypeError(f"[{where}] expected a MovingAverage or None for average, got {type(average).__name__}")
        for name, part in (("optimizer", optimizer), ("average", average)):
            if part is not None and part.flow is not self:
                raise ConfigError(f"[{where}] the {name} was made for another flow")
        batch = density.take(self, where, x, label, context, sample_weight, least=1)
        budget, clip = density.budget_of(where, activation_budget), checks.number(where, "clip", clip, 0.0)
        return optim.train_step(self, batch, budget, density.noise_seed(self, where, seed), optimizer, clip, average)

    @functools.partial(hinted, hint=_by_settings)
    def fit(self, x: ArrayLike, *, valid: float | ArrayLike | dict[str, Any] | None = 0.1,
            label: ArrayLike | None = None, context: ArrayLike | None = None, sample_weight: ArrayLike | None = None,
            epochs: int | None = None, steps: int | None = None, batch_size: int | Auto = "auto",
            optimizer: str | type[optim.Optimizer] = "auto", lr: float | Auto = "auto",
            schedule: str | optim.Schedule = "auto", patience: int | None | Auto = "auto", seed: int | None = None,
            checkpoint: str | os.PathLike[str] | None = None, resume: bool = False,
            callback: Callable[[dict[str, Any]], Any] | None = None, verbose: bool | None = None,
            settings: Settings | None = None) -> History:
        """Trains the flow by maximum likelihood.

        A flow that is not initialised is initialised from the data. A tenth of them is held out and scored after every
        epoch and at the end, and the parameters that were best on it are kept; without validation data the moving
        average, or else the last ones. An error before the first step leaves the flow as it was. A DataWarning tells of
        a table that has no density: columns of few values, one value in many rows, repeated rows.

        Another call of fit trains the present parameters, and keeps the standardisation of the first data: call `reset`
        before a fit to data of another scale. Everything else starts anew. With the same `seed` it holds out the same
        rows and repeats the same order and noise, so give each of several short calls its own.

        Parameters
        ----------
        x : array_like, (N, *shape)
            Data to train on.
        valid : float, array_like, dict or None
            What chooses the epoch: a share of x; other data; a dict of other data x and their label, context or
            sample_weight; or None.
        label : array_like of int, (N,)
            For a model with classes.
        context : array_like, (N, C)
            For a model with a context.
        sample_weight : array_like, (N,), optional
            How much a row counts, >= 0; they are divided by their mean.
        epochs, steps : int, optional
            Training ends after so many passes or updates, counted from the very first, or when `patience` runs out.
            If neither is given: 20 passes over a table or more, until there are 4,000 updates; of images 10 and 3,000.
            Without `valid`, which would end it in time, at most 100 passes.
        batch_size, optimizer, lr, schedule, patience, seed
            See `Settings`. optimizer is a name or a class, such as ef.Adam; schedule is a name or an `ef.Schedule`.
        checkpoint : path, optional
            Model file; the training state goes beside it (model.state.safetensors) every minute, at the end, and
            after Ctrl-C, SIGTERM or SIGHUP, before KeyboardInterrupt is raised.
        resume : bool
            Go on from `checkpoint`, if it is there, with the same data and settings, to the same bits as without the
            stop. Settings that are "auto" are taken from the checkpoint.
        callback : callable, optional
            Called with a dict after every step ("event": "step") and epoch ("epoch"; the flow then holds the values
            that are kept so far, and can be saved). The training ends where it returns True or raises StopIteration.
        verbose : bool, optional
            Show the progress: a bar (tqdm) at a terminal or in a notebook, elsewhere lines on standard error. None: the
            bar alone, so a script that writes to a file says nothing.
        settings : Settings, optional
            All other settings, and those above that are not given by name.

        Returns
        -------
        History
            A list with one dict an epoch: epoch, step, loss (nats a sample), lr, seconds, ..., valid_loss.

        Raises
        ------
        ShapeError, ConfigError, TypeError
            An argument doesn't fit the model, or `checkpoint` exists and resume is False.
        NumericError
            The data or the loss are not finite, as `on_nonfinite` of the settings says.
        IoError
            `checkpoint` can't be written, or what it holds is damaged.

        See Also
        --------
        train_step : One step, for a loop of your own.
        evenflow.Settings : What is not given by name.

        Examples
        --------
        >>> x, _ = ef.data.two_moons(1000, seed=0)
        >>> flow = ef.CouplingFlow(2, couplings=4)
        >>> history = flow.fit(x[100:], valid=x[:100], epochs=2, verbose=False)
        >>> len(history), history[-1]["epoch"]
        (2, 2)
        """
        # Imported here, since programs that only use a model don't need this.
        from evenflow.training.fit import fit
        everyday = dict(batch_size=batch_size, optimizer=optimizer, lr=lr, schedule=schedule, patience=patience,
                        seed=seed)
        return fit(self, x, valid, label, context, sample_weight, epochs, steps, everyday, checkpoint, resume, callback,
                   verbose, settings)

    def save(self, path: str | os.PathLike[str] | IO[bytes]) -> None:
        """Writes settings and all tensors as one safetensors file.

        Parameters
        ----------
        path : path or binary file
            A file appears complete or not at all. Another thread may train meanwhile.

        Raises
        ------
        IoError
            The file can't be written; an older one stays as it was.
        NumericError
            A value is not finite; nothing is written.

        See Also
        --------
        load : Reads the file.

        Examples
        --------
        >>> flow = ef.CouplingFlow(2)
        >>> flow.save("model.safetensors")
        >>> ef.load("model.safetensors").config == flow.config
        True
        """
        checkpoint.save(self, path)

    def verify(self, x: ArrayLike, *, label: ArrayLike | None = None, context: ArrayLike | None = None,
               seed: int = 0) -> Report:
        """Tests the model on the first samples of x: round trip, log-determinant, gradients, precision.

        Parameters
        ----------
        x, label, context
            As in `log_prob`.
        seed : int
            For the probes.

        Returns
        -------
        Report
            `print` it; `report.ok` says whether all bounds hold. See evenflow.verify.

        See Also
        --------
        evenflow.verify.Report : What it returns.

        Examples
        --------
        >>> x, _ = ef.data.two_moons(1000, seed=0)
        >>> flow = ef.CouplingFlow(2)
        >>> flow.init(x)
        >>> flow.verify(x).ok
        True
        """
        from evenflow.verify import verify
        return verify(self, x, label=label, context=context, seed=seed)

    def importance(self, log_density: Callable[[Any], ArrayLike], n: int, *, label: ArrayLike | None = None,
                   context: ArrayLike | None = None, seed: int | None = None) -> ImportanceSamples:
        """Draws samples of the flow with weights towards another density, and says whether the weights can be trusted.

        Parameters
        ----------
        log_density : callable
            Takes samples (n, *shape), returns the logarithm (n,) of the target's density in nats, up to a constant.
        n : int
            How many samples, at least 100.
        label, context, seed
            As in `sample`.

        Returns
        -------
        ImportanceSamples
            x, log_weights, ess, efficiency, pareto_k, log_evidence, ok; `print` it. See evenflow.importance.

        Raises
        ------
        NumericError, ShapeError, TypeError, ConfigError
            log_density returns NaN, infinity, or another shape, or -inf for all samples.

        Warns
        -----
        DataWarning
            If the largest weights have too heavy a tail for reliable means.

        Notes
        -----
        Weights can't tell of what the flow never draws. Where it lacks a mode or the ends of a tail, the evidence is
        too small by more than its error, and `ok` is True. Compare flows of several seeds.

        See Also
        --------
        sample_and_log_prob : Samples and their densities.

        Examples
        --------
        >>> flow = ef.CouplingFlow(2, base="gaussian")
        >>> flow.init(np.random.default_rng(0).standard_normal((1000, 2)))
        >>> flow.importance(lambda x: -(x**2).sum(axis=1) / 2, 4000, seed=0).ok
        True
        """
        from evenflow.importance import importance
        return importance(self, log_density, n, label=label, context=context, seed=seed)


def _restored(kind: type[Flow], config: dict[str, Any], values: np.ndarray, threads: int = 0) -> Flow:
    flow = kind.__new__(kind)
    Flow.__init__(flow, config, threads=threads)
    own = flow._core.values
    if np.shape(values) != own.shape:  # which numpy might broadcast
        raise ShapeError(f"[Flow] expected {own.size} values for {config['model']}, got {np.shape(values)}")
    own[:] = values
    return flow
