"""What errors say, cause by cause: texts are pinned here alone; other tests pin the type, and the row where there is one."""

import copy
import re

import numpy as np
import pytest

import evenflow as ef
from evenflow import latent, plot
from evenflow.runs.export import decode_rows, encode_rows, write_samples
from evenflow.flow import _restored
from evenflow.inpaint import inpaint
from evenflow.score import log_probs, score_rows
from plain import plain_table

IMAGES = np.zeros((4, 2, 2, 1), np.uint8)

CALLS = ["init", "forward", "encode", "log_prob", "log_prob_and_grad", "bits_per_dim", "loss_and_grad", "verify",
         "fit"]


@pytest.mark.parametrize("error, builtin", [
    (ef.ShapeError, ValueError), (ef.ConfigError, ValueError), (ef.DeviceError, RuntimeError), (ef.IoError, OSError),
    (ef.NumericError, ArithmeticError),
])
def test_an_error_is_a_builtin_one_too(error, builtin):
    assert error.__bases__ == (ef.Error, builtin)


def table_with(value):
    x = np.zeros((9, 3))
    x[5, 2] = value
    return x


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("x, error, text", [
    (np.full((4, 4, 4, 2), 256), ef.ConfigError, "expected integer pixels in 0 ... 255, got 256 ... 256"),
    (np.zeros((4, 4, 4, 2), bool), TypeError, "expected numbers, got dtype bool"),
    (np.array([["a"]]), TypeError, "got dtype <U1"),
    (np.array([[None]]), TypeError, "got dtype object; convert them with x.astype(float)"),
    ([[0.0, 1.0], [2.0]], TypeError, "got list"),
    ({0: 1.0}, TypeError, "got dict"),
    (None, TypeError, "got NoneType"),
    (np.zeros((5, 4, 4, 3), np.uint8), ef.ShapeError, "expected (N, 4, 4, 2), got (5, 4, 4, 3)"),
    (np.float64(1.0), ef.ShapeError, "got ()"),
    ([], ef.ShapeError, "expected (N, 4, 4, 2), got "),
    (np.where(np.arange(96).reshape(3, 4, 4, 2) == 77, np.nan, 1.0), ef.NumericError,
     "got nan in row 2, pixel (1, 2), channel 1"),
    (np.ma.masked_less(np.ones((3, 4, 4, 2)), 2), TypeError, "no masked values, got 96"),
])
def test_images(model, call, x, error, text):
    before = model.params.copy()
    with pytest.raises(error, match=rf"^\[{call}\] .*{re.escape(text)}"):
        getattr(model, call)(x)
    assert np.array_equal(model.params, before)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("x, error, text", [
    (np.zeros((5, 2)), ef.ShapeError, "expected (N, 3), got (5, 2)"),
    (table_with(np.nan), ef.NumericError, "expected finite values, got nan in row 5, column 2; fill it in"),
    (table_with(1e300), ef.NumericError, "expected values that float32 can hold, got 1e+300 in row 5, column 2; dtype "
                                         "float64 holds it"),
    ([np.ma.masked_equal([1.0, 2.0, 3.0], 2)] * 2, TypeError, "no masked values, got 1; fill them"),
])
def test_tables(table_model, call, x, error, text):
    with pytest.raises(error, match=rf"^\[{call}\] .*{re.escape(text)}"):
        getattr(table_model, call)(x)


def test_numpys_error_settings(table_model, table):
    """A value that is too small for float32 is zero, whatever numpy is told to raise."""
    x = table.copy()
    x[5, 2] = 1e-50
    wanted = table_model.log_prob(x)
    with np.errstate(all="raise"):
        assert np.array_equal(table_model.log_prob(x), wanted)
        table_model.fit(x, epochs=1)
        x[5, 2] = 1e50
        with pytest.raises(ef.NumericError, match="values that float32 can hold, got 1e.50 in row 5, column 2"):
            table_model.log_prob(x)


def test_place_of_nan_in_later_blocks(table_model, table, block_of):
    block_of(3 * 64)
    table[150, 1] = np.nan
    for first in (0, 7):
        with pytest.raises(ef.NumericError, match=f"row {150 + first}, column 1"):
            table_model.log_prob(table, first=first)


def test_place_of_overflow_in_later_blocks(block_of):
    block_of(2 * 64)
    flow = ef.NICE(2, couplings=2, hidden=())
    x = np.random.default_rng(0).standard_normal((200, 2))
    flow.init(x)
    for name, value in flow.named_parameters().items():
        if name.endswith("weight"):
            value[...] = 2.0
    x[150] = 3e38
    for call in (flow.forward, flow.log_prob, flow.log_prob_and_grad, flow.inverse):
        with pytest.raises(ef.NumericError, match="for sample 150$"):
            call(x)
    temperature = 1e36
    with pytest.raises(ef.NumericError, match="for sample 157;"):
        while True:
            flow.sample(200, temperature=temperature, seed=7, on_nonfinite="raise")
            temperature *= 1.05
    flow.sample(157, temperature=temperature, seed=7, on_nonfinite="raise")
    with pytest.raises(ef.NumericError, match="for sample 0;"):
        flow.sample(1, temperature=temperature, seed=7, first=157, on_nonfinite="raise")


@pytest.mark.parametrize("call", [c for c in CALLS if c not in ("init", "fit")])
def test_uninitialised(images, glow, call):
    with pytest.raises(ef.Error, match="init"):
        getattr(glow(), call)(images[0])


@pytest.mark.parametrize("kind", ["standardize", "zca", "whiten"])
def test_columns_that_float32_does_not_resolve(kind):
    noise = np.random.default_rng(0).standard_normal((200, 2))
    dates = noise + [2460000.5, 0]  # days; float32 has one in four hours there
    for x, wanted in ((dates, "varies by more than float32 resolves"), (noise * [0, 1] + 5, "varying column")):
        with pytest.raises(ef.NumericError, match=rf"\[preprocess\].*{wanted}.*in column 0"):
            plain_table(2, couplings=1, hidden=(4,), preprocess=kind).init(x)
    flow = plain_table(2, couplings=1, hidden=(4,), preprocess=kind, dtype="float64")
    flow.init(dates)
    assert np.isfinite(flow.log_prob(dates)).all()


def test_a_refused_init_changes_nothing(images):
    flow = ef.Glow((4, 4, 2), levels=2, steps=1, hidden=4, seed=0)
    for initialised in (False, True):
        before = {name: value.copy() for name, value in flow.named_parameters().items()}
        with pytest.raises(ef.NumericError, match="level1"):
            flow.init(images[0][:1])  # one image: of 1x1 pixels no channel varies
        assert flow.initialized == initialised
        assert all(np.array_equal(value, before[name]) for name, value in flow.named_parameters().items())
        flow.init(images[0])


def test_constant_channel(images, glow, table, real_nvp):
    x = images[0].astype(float)
    x[..., 1] = 7.0
    flow = glow()
    with pytest.raises(ef.NumericError, match="constant|channel"):
        flow.init(x)
    assert not flow.initialized
    flow.init(images[0])
    table[:, 2] = 1.5
    with pytest.raises(ef.NumericError, match="constant|column|channel"):
        real_nvp().init(table)
    table[:, 2] = 1.7e9 + 300 * np.arange(200) / 200
    with pytest.raises(ef.NumericError, match="by more than float32 resolves, got mean 1.7e.09, .* column 2; leave a "
                                              "constant column out, else subtract an offset or take dtype float64$"):
        real_nvp().init(table)
    real_nvp(dtype="float64").init(table)


@pytest.mark.parametrize("make, error, word", [
    (lambda: ef.Glow((6, 6, 1), levels=2), ValueError, "6"),
    (lambda: ef.Glow((8, 8)), ef.ConfigError, r"\(H, W, C\)"),
    (lambda: ef.Glow(8), TypeError, r"\(H, W, C\)"),
    (lambda: ef.RealNVP((4,)), ef.ConfigError, r"expected a shape \(H, W, C\), got \(4,\)"),
    (lambda: ef.NICE((4,)), ef.ConfigError, "expected a number of columns, or a shape"),
    (lambda: ef.Glow((8, 8, 1.0)), TypeError, "whole number"),
    (lambda: ef.Glow((8, 8, 1), levels=0), ef.ConfigError, "levels >= 1"),
    (lambda: ef.Glow((8, 8, 1), coupling="spline"), ef.ConfigError, "'affine', 'additive', 'bounded', got 'spline'"),
    (lambda: ef.Glow((8, 8, 1), bits=9), ef.ConfigError, "bits in 1 ... 8, got 9"),
    (lambda: ef.Glow((8, 8, 1), class_weight=0.1), ef.ConfigError, "classes > 0"),
    (lambda: ef.Glow((8, 8, 1), dtype=None), ef.ConfigError, "'float32', 'float64', got None"),
    (lambda: ef.Glow((8, 8, 1), conditioner_dtype="bfloat16", dtype="float64"), ef.ConfigError, "model of float64"),
    (lambda: ef.RealNVP((8, 8, 1), conditioner_dtype="bfloat16"), TypeError, "unexpected argument 'conditioner_dtype'"),
    (lambda: ef.Glow((8, 8, 1), hidden=2**70), ef.ConfigError, "hidden <="),
    (lambda: ef.Glow((8, 8, 1), levels=2**16 + 1), ef.ConfigError, "levels in 1 ... 65536, got 65537"),
    (lambda: ef.Glow((2**20 + 1, 1, 1)), ef.ConfigError, "shape in 1 ... 1048576"),
    (lambda: ef.Glow((2**20, 2**7, 2)), ef.ConfigError, "at most 134217728 values a sample, got 1048576 x 128 x 2"),
    (lambda: ef.RealNVP((8, 8, 1), levels=2**40), ef.ConfigError, "levels in 1 ... 30, got 1099511627776"),
    (lambda: plain_table(2**62), ef.ConfigError, "dims in 1 ... 1048576"),
    (lambda: plain_table(3, hidden=(2**21,)), ef.ConfigError, "a width in hidden in 1 ... 1048576"),
    (lambda: plain_table(3, hidden=np.array(4)), TypeError, r"sequence of widths for hidden, got array\(4\)"),
    (lambda: plain_table(3, hidden=[[4], [4, 4]]), TypeError, r"a width in hidden, got \[4\]"),
    (lambda: ef.NICE(3, hidden=[1] * (2**16 + 1)), ef.ConfigError, "hidden layers in 0 ... 65536, got 65537"),
    (lambda: ef.NICE(4, hidden=(4,), seed=2**64), ef.ConfigError, "seed <="),
    (lambda: ef.NICE(4, hidden=(4,), threads=10**6), ef.ConfigError, "threads <= 1024"),
    (lambda: ef.NICE(4, hidden=(4,), device=0), ef.DeviceError, "expected device cpu or cuda, got 0"),
    *((lambda word=word: ef.NICE(4, hidden=(4,), device=word), ef.DeviceError,
       r"\[NICE\] expected device cpu or cuda, got '") for word in ("\ud800", "cpu\0", "")),
    (lambda: plain_table(3, levels=2), TypeError, "unexpected argument 'levels'"),
    (lambda: plain_table(0), ef.ConfigError, ">= 1"),
    (lambda: plain_table(3, hidden=64), TypeError, "sequence of widths"),
    (lambda: ef.NICE(4, bits=5), ef.ConfigError, "bits is no setting of a model for tables"),
    (lambda: ef.CouplingFlow(2, num_layers=4), TypeError, r"\[CouplingFlow\] unexpected argument 'num_layers'; did you mean 'couplings'\?"),
    (lambda: ef.CouplingFlow(2, batchnorm=True), TypeError, "did you mean 'batch_norm'"),
    (lambda: ef.Glow((4, 4, 1), n_flows=4), TypeError, "did you mean 'steps'"),
    (lambda: ef.RealNVP(input_shape=(4, 4, 1)), TypeError, "did you mean 'shape'"),
    (lambda: ef.CouplingFlow(2, coupling=4), TypeError, "'coupling'; did you mean 'couplings'\\?"),
    (lambda: ef.CouplingFlow(2, coupling="affine"), TypeError, "'coupling'; did you mean 'law'\\?"),
    (lambda: ef.RealNVP((4, 4, 1), n_layers=4), TypeError, r"\[RealNVP\] unexpected argument 'n_layers'$"),
    (lambda: ef.CouplingFlow(2, 4), TypeError, "positional argument"),
    (lambda: ef.CouplingFlow(2, hidden=64), TypeError, r"for hidden, got 64; one layer is \(64,\)"),
    (lambda: ef.NICE(1), ef.ConfigError, r"\[NICE\] expected the number of columns >= 2, got 1"),
    (lambda: ef.Glow((3, 32, 32), levels=2), ef.ShapeError, r"divisible by 2\^2, got 3 x 32 \(shapes are \(H, W, C\)\)"),
])
def test_bad_settings(make, error, word):
    with pytest.raises(error, match=word):
        make()


def test_labels(images, glow, model):
    x, labels = images
    flow = glow(classes=3)
    flow.init(x)
    for call in ("forward", "log_prob", "loss_and_grad", "fit"):
        with pytest.raises(ef.ConfigError, match=r"a label in 0 ... 2, got none"):
            getattr(flow, call)(x)
        with pytest.raises(ef.ConfigError, match=r"label in 0 ... 2, got 3 in row 5"):
            getattr(flow, call)(x, label=np.where(np.arange(64) == 5, 3, labels))
        with pytest.raises(ef.ShapeError, match=r"\(64,\), got \(63,\)"):
            getattr(flow, call)(x, label=labels[1:])
        with pytest.raises(TypeError, match="float64"):
            getattr(flow, call)(x, label=labels.astype(float))
        with pytest.raises(ef.ConfigError, match="a label was given"):
            getattr(model, call)(x, label=labels)
    with pytest.raises(ef.ConfigError, match="got -1"):
        flow.sample(3, label=-1)
    with pytest.raises(ef.ConfigError, match="class head"):
        flow.class_log_prob(x)


@pytest.mark.parametrize("call, error, word", [
    (lambda f: f.sample(2, seed=2**64), ef.ConfigError, "seed <= "),
    (lambda f: f.sample(-1), ef.ConfigError, r"\[sample\] expected n >= 0, got -1"),
    (lambda f: f.sample(2.0), TypeError, r"\[sample\] expected a whole number for n, got 2.0"),
    (lambda f: f.sample(2, temperature=-0.5), ef.ConfigError, "temperature >= 0, got -0.5"),
    (lambda f: f.sample(2, temperature=np.array([0.5])), TypeError, "a number for temperature, got "),
    (lambda f: f.sample(2, device=np.array(["cpu", "cuda"])), ef.DeviceError, "expected 'cpu' or the model's"),
    (lambda f: f.inverse(np.zeros((2, 4))), ef.ShapeError, r"\[inverse\] expected \(N, 3\) for z, got \(2, 4\)"),
    (lambda f: f.backward(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(3)), ef.ShapeError, "dlogdet"),
    (lambda f: f.log_prob(np.zeros((2, 3)), seed=np.zeros((2, 3))), TypeError,
     "a whole number for seed, got array"),
    (lambda f: latent.manifold(f, np.zeros((4, 3)), steps=4, label=[0, 1]), TypeError, r"for label, got \[0, 1\]"),
    (lambda f: ef.set_matmul_precision("medium"), ef.ConfigError, "precision to be one of 'highest', 'high', got 'medium'"),
    (lambda f: f.sample(2, first=2**64), ef.ConfigError, "first <= "),
    (lambda f: f.sample(2, first=2**63 - 2), ef.ConfigError, "first <= 4611686018427387904"),
    (lambda f: f.loss_and_grad(np.zeros((2, 3)), weight=np.nan), ef.ConfigError, "weight to be finite, got nan"),
    (lambda f: f.loss_and_grad(np.zeros((2, 3)), activation_budget=2**80), ef.ConfigError, "activation_budget <="),
    (lambda f: f.fit(np.zeros((2, 3)), batch_size=2**80), ef.ConfigError, "batch_size <="),
    (lambda f: f.verify(np.zeros((2, 3)), seed=-1), ef.ConfigError, "seed >= 0"),
    (lambda f: f.backward(np.zeros((2, 3)), np.zeros((2, 3)), np.array([0, np.nan])), ef.NumericError,
     "got nan in row 1$"),
    (lambda f: f.inverse_backward(np.zeros((2, 3)), np.zeros((2, 3)), np.array([np.inf, 0])), ef.NumericError,
     "got inf in row 0$"),
    (lambda f: f.sample(2**62), ef.ConfigError, "n <= 768614336404564650, got"),
    (lambda f: f.sample(2**40), MemoryError, "Unable to allocate"),
    (lambda f: ef.Glow((4, 6, 1), levels=1, steps=40, hidden=2**20), MemoryError, r"\[Glow\] expected memory for the model, got"),
    (lambda f: ef.NICE(4, couplings=1, hidden=(2**20,) * 40), MemoryError, r"\[NICE\] expected memory for the model, got"),
    (lambda f: plain_table(4, couplings=1, hidden=(2**20,) * 40), MemoryError,
     r"\[CouplingFlow\] expected memory for the model, got"),
    (lambda f: f.join_latent(None), TypeError, "a list of 1 levels, got NoneType"),
    (lambda f: f.train_step(np.eye(3), None), TypeError, r"\[train_step\] expected an optimizer .*, got NoneType"),
    (lambda f: f.train_step(np.eye(3), ef.MovingAverage(f)), TypeError, "an optimizer of evenflow, got MovingAverage"),
    (lambda f: f.train_step(np.eye(3), ef.Adam(f), average=ef.Adam(f)), TypeError, "or None for average, got Adam"),
    (lambda f: f.train_step(np.eye(3), ef.Adam(ef.NICE(3, hidden=()))), ef.ConfigError, "made for another flow"),
    (lambda f: f.fit(np.eye(3), batchsize=1), TypeError,
     r"\[fit\] unexpected argument 'batchsize'; did you mean 'batch_size'\?"),
    (lambda f: f.fit(np.eye(3), zzz=1), TypeError, "unexpected argument 'zzz'$"),
    *((lambda f, name=name: f.fit(np.eye(3), **{name: 1}), TypeError, f"{name}'; did you mean '{ours}'") for name, ours in (
        ("learning_rate", "lr"), ("num_epochs", "epochs"), ("validation_data", "valid"), ("weights", "sample_weight"))),
    (lambda f: f.save(None), TypeError, r"\[save\] expected a path, got None"),
    (lambda f: ef.data.load(None), TypeError, r"\[data\] expected a path, got None"),
    (lambda f: ef.load(None), TypeError, r"\[load\] expected a path, got None"),
    (lambda f: ef.load("model.safetensors", threads=-1), ef.ConfigError, r"\[load\] expected threads >= 0"),
    (lambda f: ef.load("model.safetensors", threads=1025), ef.ConfigError, r"\[load\] expected threads <= 1024"),
    (lambda f: ef.load("model.safetensors", device=3), ef.DeviceError, r"\[load\] expected device cpu or cuda, got 3"),
    (lambda f: _restored(type(f), f.config, np.ones(1, np.float32)), ef.ShapeError, "values for CouplingFlow, got"),
    (lambda f: ef.Glow((8, 8, 1), coupling=np.eye(2)), ef.ConfigError, "'affine', 'additive', 'bounded', got array"),
    (lambda f: ef.Adam(3), TypeError, "a Flow, got int"),
    (lambda f: ef.MovingAverage(f, 0.9, "no"), TypeError, "True or False for zero_debias, got 'no'"),
    (lambda f: ef.clip_grad_norm({}, 1.0), TypeError, "a Flow, got dict"),
    (lambda f: ef.Adam(f, lr="x"), TypeError, "a number for lr, got 'x'"),
    (lambda f: ef.SGD(f, weight_decay=-1.0), ef.ConfigError, "weight_decay"),
    (lambda f: setattr(ef.Adam(f), "steps", 2**63 - 1), ef.ConfigError, "expected steps in 0 ... 4611686018427387904"),
    (lambda f: ef.Schedule(lr=0.1, warmup=-1), ef.ConfigError, "warmup >= 0"),
    (lambda f: ef.Schedule().lr_at("a"), TypeError, r"\[Schedule\] expected a whole number for step, got 'a'"),
    (lambda f: copy.deepcopy(ef.Adam(f)), TypeError, r"\[optimizer\] expected no copy of Adam, .* make a new one"),
    (lambda f: copy.copy(ef.MovingAverage(f)), TypeError, r"\[MovingAverage\] expected no copy, .* make a new one"),
    (lambda f: plot.spectrum(3, "s.png"), ef.ShapeError, r"\[spectrum\] expected sigma as \(D,\) > 0, got \(\)"),
    (lambda f: write_samples(f, 2, None), TypeError, r"\[sample\] expected a path, got None"),
    (lambda f: encode_rows(f, [], None), TypeError, r"\[encode\] expected a path, got None"),
    (lambda f: encode_rows(f, [], "z.txt"), ef.ConfigError, "a name ending in .npy, .npz or .csv, got z.txt"),
    *((call, TypeError, r"\[\w+\] expected a Flow, got NoneType") for call in (
        lambda f: latent.as_floats(None, IMAGES), lambda f: latent.reconstruct(None, IMAGES),
        lambda f: latent.interpolate(None, IMAGES, IMAGES), lambda f: latent.manifold(None, IMAGES),
        lambda f: latent.attribute(None, IMAGES, []), lambda f: latent.edit(None, IMAGES, [], []),
        lambda f: latent.project(None, IMAGES, []), lambda f: latent.enlarged(None, 2),
        lambda f: inpaint(None, IMAGES, IMAGES), lambda f: encode_rows(None, [], "z.npy"),
        lambda f: decode_rows(None, [], "x.npy"), lambda f: write_samples(None, 2, "x.npy"),
        lambda f: score_rows(None, [], "s.csv"), lambda f: next(log_probs(None, [])))),
    (lambda f: ef.data.rings("x"), TypeError, "a whole number for n"),
    (lambda f: ef.data.two_moons(-1), ef.ConfigError, "n >= 1"),
    (lambda f: ef.data.two_moons(5, noise=-1.0), ef.ConfigError, "noise >= 0"),
    (lambda f: ef.data.load("digits").split(0.1, seed=-1), ef.ConfigError, "seed >= 0"),
    (lambda f: ef.data.load("nowhere"), ef.IoError, "no file or folder nowhere"),
])
def test_bad_arguments(table_model, call, error, word):
    grads = table_model.grads.copy()
    with pytest.raises(error, match=word):
        call(table_model)
    assert np.array_equal(table_model.grads, grads)


def test_no_infinity_comes_out():
    """Additive couplings have a finite log-determinant whatever overflows."""
    flow = ef.NICE(2, couplings=2, hidden=())
    x = np.random.default_rng(0).standard_normal((10, 2))
    flow.init(x)
    for name, value in flow.named_parameters().items():
        if name.endswith("weight"):
            value[...] = 2.0
    for call in (flow.forward, flow.encode, flow.log_prob, flow.inverse, flow.decode):
        with pytest.raises(ef.NumericError, match="finite"):
            call(np.full((1, 2), 3e38))
        assert np.isfinite(call(x)[0]).all()
    with pytest.raises(ef.NumericError, match="samples, got -inf from layer coupling0, .*; try a lower "):
        flow.sample(3, temperature=1e38, seed=0, on_nonfinite="raise")


@pytest.mark.slow
@pytest.mark.parametrize("make", [
    lambda: ef.Glow((4, 4, 2), levels=2, steps=2, hidden=8, learn_top=True, classes=3),
    lambda: ef.Glow((4, 4, 2), levels=1, steps=1, hidden=8, coupling="additive", permutation="lu"),
    lambda: ef.RealNVP((4, 4, 2), levels=2, base_dim=4, residual_blocks=1),
    lambda: ef.RealNVP((4, 4, 2), levels=1, base_dim=4, residual_blocks=1, bottleneck=True, batch_norm=False,
                       weight_norm=False, skip=False),
    lambda: ef.NICE((4, 4, 2), couplings=2, hidden=(8, 8), preprocess="standardize"),
    lambda: plain_table(32, couplings=4, hidden=(8, 8), batch_norm=True, permutation="lu"),
    lambda: plain_table(32, couplings=2, hidden=(8,), actnorm=True, preprocess="whiten", base="logistic"),
])
def test_nan_in_any_tensor_is_found(images, make):
    """Not a ReLU nor a maximum may make a number of it."""
    x, labels = images
    flow = make()
    x = x if flow.is_image else x.reshape(64, 32).astype(np.float32)
    label = labels if flow.classes else None
    flow.init(x)
    flow.fit(x, label=label, epochs=2)
    for name, value in flow.named_parameters().items():
        if name == "initialized":
            continue
        kept = value.copy()
        value[...] = np.nan
        if name != "preprocess.inverse":
            with pytest.raises(ef.NumericError):
                print(name, flow.log_prob(x, label=label))
        if name not in ("preprocess.matrix", "preprocess.logdet"):
            with pytest.raises(ef.NumericError):
                print(name, flow.sample(64, label=label))
        value[...] = kept
    flow.log_prob(x, label=label)


def test_split_and_join(model):
    z = np.arange(64, dtype=np.float32).reshape(2, 32)
    levels = model.split_latent(z)
    assert np.array_equal(model.join_latent(levels), z)
    with pytest.raises(ef.ShapeError, match=f"{len(levels)} levels"):
        model.join_latent(levels + levels)
    with pytest.raises(ef.ShapeError):
        model.join_latent([levels[0][:, :1], *levels[1:]])


def test_to_uint8():
    levels = np.arange(16.0)
    assert np.array_equal(ef.to_uint8(levels, 4), np.arange(16) * 17)
    assert np.array_equal(ef.to_uint8(levels + 0.9, np.int8(4)), np.arange(16) * 17)
    assert np.array_equal(ef.to_uint8(np.array([-5.0, 300.0])), [0, 255])
    for bits in range(1, 9):
        assert np.array_equal(ef.to_uint8(np.arange(2.0**bits), bits) >> (8 - bits), np.arange(2**bits))
    for error, bad in ((TypeError, np.zeros(3, np.uint8)), (ef.NumericError, np.array([np.nan]))):
        with pytest.raises(error):
            ef.to_uint8(bad)


# What is taken


def test_blocks_change_nothing(images, table, model, table_model, block_of):
    x = images[0]

    def everything():
        z, logdet = model.forward(x)
        back, back_logdet = model.inverse(z)
        return [z, logdet, back, back_logdet, model.log_prob(x, seed=5), model.sample(40, seed=3),
                table_model.log_prob(table), table_model.sample(100, temperature=0.7, seed=1)]

    whole = everything()
    block_of(32 * 7)
    for a, b in zip(whole, everything()):
        assert np.array_equal(a, b)
