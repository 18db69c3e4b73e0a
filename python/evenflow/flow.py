"""Flow: the public class of every model, a `Density` that can be trained, saved and tested."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from evenflow import checkpoint, density, optim
from evenflow._border import arrays, checks
from evenflow.density import Density, compiled
from evenflow.errors import ConfigError, ShapeError
from evenflow._border.names import hinted

if TYPE_CHECKING:
    from evenflow.data.augment import Augment
    from evenflow.importance import ImportanceSamples
    from evenflow.verify import Report

Auto = Literal["auto"]


class History(list[dict[str, Any]]):
    """What `Flow.fit` returns: a list with one dict a finished epoch."""

    def __repr__(self) -> str:  # a notebook shows what a cell ends with, and a training has hundreds of epochs
        if not self:
            return "History: no finished epoch"
        last = self[-1]
        told = ", ".join(f"{name} {last[name]:.4f}" for name in ("loss", "valid_loss") if last.get(name) is not None)
        count = "1 epoch" if len(self) == 1 else f"{len(self)} epochs"
        return f"History: {count}, {last['step']} steps; last epoch: {told} nats"


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

    @hinted
    def fit(self, x: ArrayLike, *, valid: ArrayLike | None = None, label: ArrayLike | None = None,
            valid_label: ArrayLike | None = None, context: ArrayLike | None = None,
            valid_context: ArrayLike | None = None, sample_weight: ArrayLike | None = None,
            valid_sample_weight: ArrayLike | None = None, epochs: int | None = None, steps: int | None = None,
            batch_size: int | Auto = "auto", optimizer: str = "auto",
            optimizer_options: dict[str, float] | None = None, lr: float | Auto = "auto",
            warmup: int | Auto = "auto", schedule: str = "constant", lr_decay: float = 1.0,
            lr_floor: float = 0.0, lr_patience: int = 10, clip: float | Auto = "auto",
            average: float | Auto = "auto", patience: int | None = None, accumulate: int = 1,
            augment: Augment | dict[str, Any] | None = None, on_nonfinite: str = "raise", max_failures: int = 10,
            init_batch: int | None = None, activation_budget: int | None = None, seed: int | None = None,
            checkpoint: str | os.PathLike[str] | None = None, resume: bool = False,
            callback: Callable[[dict[str, Any]], None] | None = None, verbose: bool | None = None, comm: Any = None,
            sync_batch_norm: bool = True, wire_dtype: str | None = None) -> History:
        """Trains the flow by maximum likelihood.

        A flow that is not initialised is initialised from the data. `valid` is scored after every epoch, and the
        parameters that were best on it are kept; without it the moving average, or else the last ones. An error before
        the first step leaves the flow as it was. A DataWarning tells of a table that has no density: columns of few
        values, one value in many rows, repeated rows.

        Another call of fit trains the present parameters, and keeps the standardisation of the first data: call `reset`
        before a fit to data of another scale. Everything else starts anew. With the same `seed` it
        repeats the same order and noise, so give each of several short calls its own.

        Parameters
        ----------
        x, valid : array_like, (N, *shape)
            Data to train on, and to choose the epoch by.
        label, valid_label : array_like of int, (N,)
            For a model with classes.
        context, valid_context : array_like, (N, C)
            For a model with a context.
        sample_weight, valid_sample_weight : array_like, (N,), optional
            How much a row counts, >= 0; those of x are divided by their mean.
        epochs, steps : int, optional
            Training ends after so many passes or updates, counted from the very first, or when `patience` runs out.
            If neither is given: 20 passes over a table or more, until there are 4,000 updates; of images 10 and 3,000.
            Without `valid`, which would end it in time, at most 100 passes.
        batch_size : int
            "auto": 64 for images, 32 ... 256 by N for tables.
        optimizer : str
            "adam", "adamw", "adamax", "sgd" or "rmsprop". "auto": "adamax" for images, "adam" for tables.
        optimizer_options : dict, optional
            More arguments of the optimiser: beta2, momentum, eps, weight_decay, ...
        lr : float
            Learning rate. "auto": 1e-3 for images, 3e-3 for tables.
        warmup : int
            Steps in which the rate rises linearly. "auto": 0 for images; for tables an epoch, at most 100 steps.
        schedule : str
            After the warm-up: "constant" (times lr_decay at every step), "cosine" (down to lr_floor at the last of
            `epochs` or `steps`), or "plateau" (halved after lr_patience epochs without a better validation loss).
        lr_decay, lr_floor, lr_patience : float, float, int
            See `schedule`.
        clip : float
            Largest norm of the gradient; 0: not clipped. "auto": 0 for images, 20 for tables.
        average : float
            Decay of a moving average of the parameters, which is validated and kept; 0: none. "auto": 0 for images,
            0.99 for tables.
        patience : int, optional
            Epochs without a better validation loss, after the warm-up, until training ends; 20 if `valid` is given and
            no length.
        accumulate : int
            Pieces in which a batch is computed, to save memory. Batch norm sees each piece alone.
        augment : Augment or dict, optional
            Random changes of training images, drawn anew in every epoch; see evenflow.data.Augment.
        on_nonfinite : str
            After a loss or gradient that is not finite: "raise", "skip" the step, or "rollback" to the last snapshot
            (every 100 steps) with half the rate.
        max_failures : int
            Steps that may fail until the error is raised after all.
        init_batch : int, optional
            Samples for the initialisation. None: about a million values; for whitening 64 rows a column.
        activation_budget : int, optional
            See `loss_and_grad`.
        seed : int, optional
            For the order of the data, augmentation and noise. None: the model's own seed.
        checkpoint : path, optional
            Model file; the training state goes beside it (model.state.safetensors) every minute, at the end, and
            after Ctrl-C, SIGTERM or SIGHUP, before KeyboardInterrupt is raised.
        resume : bool
            Continue from `checkpoint`, with the same data and settings, to the same bits as without the stop.
        callback : callable, optional
            Called with a dict after every step ("event": "step") and epoch ("epoch"); see docs/training.md.
        verbose : bool, optional
            Show a progress bar (tqdm). None: if tqdm is installed and the output is a terminal or a notebook.
        comm : optional
            An mpi4py communicator whose ranks train together (docs/ranks.md).
        sync_batch_norm : bool
            With ranks: moments over all ranks' samples, rather than over each rank's own.
        wire_dtype : str, optional
            With ranks: "bfloat16" sends gradients rounded to it.

        Returns
        -------
        History
            A list with one dict a finished epoch: epoch, step, loss (nats a sample), lr, seconds, ..., valid_loss.

        Raises
        ------
        ShapeError, ConfigError, TypeError
            An argument doesn't fit the model, or `checkpoint` exists and resume is False.
        NumericError
            The data or the loss are not finite, as `on_nonfinite` says.
        IoError
            `checkpoint` can't be written, or what it holds is damaged.
        MissingExtra
            verbose=True without tqdm.
        """
        # Imported here, since programs that only use a model don't need this.
        from evenflow.data import discrete
        from evenflow.training import presets, progress
        from evenflow.data.augment import Augment
        from evenflow.distributed.ranks import Ranks
        from evenflow.training.settings import Settings
        from evenflow.training.loop import Trainer, refuse_used
        where = "fit"
        if checks.flag(where, "resume", resume) and checkpoint is None:
            raise ConfigError("[fit] resume=True needs checkpoint=...")
        given: dict[str, Any] = dict(
            batch_size=batch_size, optimizer=optimizer, lr=lr, warmup=warmup, clip=clip, average=average)
        chosen = {name: value for name, value in given.items() if not (isinstance(value, str) and value == "auto")}
        usual: dict[str, Any] = {}
        length = presets.TRAINING["image" if self._is_image else "table"]
        n = 1
        with contextlib.suppress(TypeError):  # of what is no data, or no number, which Trainer says
            n = max(len(cast(Any, x) if hasattr(x, "__len__") else arrays.as_array(where, x)), 1)
            usual = {} if self._is_image else presets.table(n, chosen.get("batch_size"))
        automatic = epochs is None and steps is None and patience is None and valid is not None
        if automatic:
            patience = length["patience"]
        settings = Settings(
            **{**usual, **chosen}, optimizer_options=optimizer_options or {}, schedule=schedule, lr_decay=lr_decay,
            lr_floor=lr_floor, lr_patience=lr_patience, patience=patience, accumulate=accumulate,
            augment=Augment.of(augment), on_nonfinite=on_nonfinite, max_failures=max_failures, init_batch=init_batch,
            activation_budget=activation_budget, seed=self._config["seed"] if seed is None else seed,
            sync_batch_norm=sync_batch_norm, wire_dtype=wire_dtype)
        if epochs is None and steps is None:
            epochs = presets.epochs(length, n, settings.batch_size)
            epochs = min(epochs, presets.UNVALIDATED) if valid is None else epochs
        path = None if checkpoint is None else checks.file_name(where, checkpoint)
        ranks = Ranks(comm)
        ranks.lead(lambda: None if resume or path is None else refuse_used(path))
        with self._undone_on_error():
            if not self.initialized:
                found = (("x", arrays.names_of(x)), ("context", arrays.names_of(context)))
                self._names = {what: names for what, names in found if names is not None}
            trainer = Trainer(self, x, valid, label=label, valid_label=valid_label, context=context,
                              valid_context=valid_context, sample_weight=sample_weight,
                              valid_sample_weight=valid_sample_weight, settings=settings, ranks=ranks)
            if path is not None and resume:
                if automatic:
                    trainer.adopt_patience(path)
                trainer.load_state(path)
            if not self._is_image:
                ranks.lead(lambda: discrete.warn(where, trainer))
            quiet = ranks.rank > 0 or not progress.wanted(where, verbose)
            shown = progress.Progress(None, quiet, self._is_image, lines=False)
            train = trainer._begin(epochs, steps, shown.around(callback), path)
        shown.total = trainer.planned
        try:
            train()
        finally:
            shown.close(stopped=trainer.progress.stopped)
        return History(trainer.history)

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """If the block raises, the values are put back."""
        values, names = self._core.values.copy(), dict(self._names)
        try:
            yield
        except BaseException:
            self._core.values[:] = values
            self._names = names
            raise

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
