"""Models for check_embed.sh, and the comparison of C and C++ with Python, bit by bit.

usage: check_embed.py make FOLDER            writes a model of every kind, rows.csv and what Python computes
       check_embed.py compare LIBRARY FOLDER the same through the C interface, and errors
       check_embed.py same FOLDER NAME FILE  a program's output against Python's NAME, an array of a model
"""

import ctypes
import json
import os
import sys

import numpy as np

import evenflow as ef

ROWS, SAMPLES, SEED = 40, 50, 5
TYPES = {np.dtype("float32"): 1, np.dtype("float64"): 2, np.dtype("uint8"): 3}


def models():
    table = dict(couplings=3, hidden=(16, 16))
    yield "table", ef.CouplingFlow(6, couplings=8, hidden=(64, 64))
    yield "table64", ef.CouplingFlow(5, **table, dtype="float64", permutation="lu", preprocess="whiten", actnorm=True)
    yield "table_bf16", ef.CouplingFlow(6, **table, conditioner_dtype="bfloat16", mask="odd-even", batch_norm=True)
    yield "nice", ef.NICE(7, couplings=4, hidden=(16,), preprocess="zca")
    yield "nice_image", ef.NICE((4, 4, 1), couplings=2, hidden=(8,), bits=5, seed=2**63 - 1)
    yield "real_nvp_image", ef.RealNVP((8, 8, 1), base_dim=4, residual_blocks=1)
    yield "glow", ef.Glow((8, 8, 3), levels=2, steps=2, hidden=8, bits=5, seed=2**64 - 1)
    yield "glow_classes", ef.Glow((4, 4, 2), levels=1, steps=2, hidden=8, classes=3, class_weight=0.5,
                                  permutation="plain", coupling="additive", dtype="float64")


def make_posterior(folder):
    """A density given a context, as sbi's posteriors are."""
    rng = np.random.default_rng(0)
    flow = ef.CouplingFlow(5, context=2, couplings=3, hidden=(16, 16))
    context = rng.standard_normal((200, 2))
    flow.fit(rng.standard_normal((200, 5)) + context[:, :1], context=context, epochs=2, batch_size=50, seed=0)
    flow.save(os.path.join(folder, "posterior.safetensors"))
    draws, log_prob = flow.sample_and_log_prob(SAMPLES, context=[0.5, -1], seed=SEED)
    events = context[:ROWS].astype(np.float32)
    np.savetxt(os.path.join(folder, "conditions.csv"), events, delimiter=",", fmt="%.9g")
    printed = [[float(f"{value:.9g}") for value in row] for row in draws]
    np.savez(os.path.join(folder, "posterior"), draws=np.column_stack([printed, log_prob]),
             events=flow.sample(ROWS, context=events, seed=SEED))


def make(folder):
    make_posterior(folder)
    rng = np.random.default_rng(0)
    for name, flow in models():
        shape = (200, *flow.shape)
        x = rng.integers(0, 256, shape, np.uint8) if flow.is_image else rng.standard_normal(shape).astype(flow.dtype)
        label = rng.integers(0, flow.classes, 200).astype(np.int32) if flow.classes else None
        flow.init(x)
        flow.fit(x, label=label, epochs=2, batch_size=50, optimizer="adam", lr=1e-2, seed=0)
        flow.save(os.path.join(folder, f"{name}.safetensors"))
        x = x[:ROWS]
        label = None if label is None else label[:ROWS]
        many = None if label is None else np.resize(label, SAMPLES)
        z, logdet = flow.forward(x, label=label)
        back, back_logdet = flow.inverse(z, label=label)
        np.savez(os.path.join(folder, name), x=x, label=np.empty(0, np.int32) if label is None else label, z=z,
                 logdet=logdet, back=back, back_logdet=back_logdet,
                 log_prob=flow.log_prob(x, seed=SEED, label=label),
                 bits_per_dim=flow.bits_per_dim(x, seed=SEED, label=label),
                 sample=flow.sample(SAMPLES, seed=SEED, temperature=0.8, label=many),
                 plain_sample=flow.sample(SAMPLES, seed=SEED, label=many))
        if name == "table":
            np.savetxt(os.path.join(folder, "rows.csv"), x, delimiter=",", fmt="%.9g")


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def expect_equal(what, got, wanted):
    assert got.tobytes() == np.ascontiguousarray(wanted).tobytes(), f"{what}: expected Python's bits"


def config_of(model):
    size = ctypes.c_size_t()
    model._check(model.c.evenflow_model_get_config(model.model, None, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    model._check(model.c.evenflow_model_get_config(model.model, text, ctypes.byref(size)))
    return text.value.decode()


def compare(library, folder):
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "examples", "ctypes"))
    import evenflow_c as c
    for name, flow in models():
        model = c.Model(library, os.path.join(folder, f"{name}.safetensors"))
        assert (model.info.dims, model.info.classes) == (flow.dims, flow.classes), name
        assert model.info.bits == (flow.bits if flow.is_image else 0), name
        assert config_of(model) == json.dumps(flow.config), name
        wanted = np.load(os.path.join(folder, f"{name}.npz"))
        x, z = np.ascontiguousarray(wanted["x"]), np.ascontiguousarray(wanted["z"])
        dtype, own = TYPES[x.dtype], TYPES[flow.dtype]
        label = np.ascontiguousarray(wanted["label"])
        options = c.Options(ctypes.sizeof(c.Options), None, SEED, 0, 0.8)
        if label.size:
            options.labels = label.ctypes.data
        out, floats = np.empty(ROWS), np.empty_like(z)
        for call in ("log_prob", "bits_per_dim"):
            model.call(call, dtype, pointer(x), ROWS, options, pointer(out))
            expect_equal(f"{name} {call}", out, wanted[call])
        model.call("forward", dtype, pointer(x), ROWS, options, pointer(floats), pointer(out))
        expect_equal(f"{name} forward", floats, z)
        expect_equal(f"{name} logdet", out, wanted["logdet"])
        model.call("encode", dtype, pointer(x), ROWS, options, pointer(floats))
        expect_equal(f"{name} encode", floats, z)
        model.call("inverse", own, pointer(z), ROWS, options, pointer(floats), pointer(out))
        expect_equal(f"{name} inverse", floats, wanted["back"])
        expect_equal(f"{name} logdet of inverse", out, wanted["back_logdet"])
        model.call("decode", own, pointer(z), ROWS, options, pointer(floats))
        expect_equal(f"{name} decode", floats, wanted["back"])
        many = np.resize(label, SAMPLES) if label.size else label
        if label.size:
            options.labels = many.ctypes.data
        floats = np.empty_like(wanted["sample"])
        model.sample(own, SAMPLES, pointer(floats), options)
        expect_equal(f"{name} sample", floats, wanted["sample"])
        model.close()
    errors(c, library, folder)
    print(f"C and Python: the same bits in {len(list(models()))} models")


def errors(c, library, folder):
    def fails(status, text, call, *arguments):
        try:
            call(*arguments)
        except c.Failure as failure:
            assert failure.args[0] == status and text in failure.args[1], failure.args
            return
        raise AssertionError(f"expected status {status}")

    path = os.path.join(folder, "table.safetensors")
    fails(4, "no_such_file", c.Model, library, "no_such_file")
    fails(4, "[", c.Model, library, os.path.join(folder, "rows.csv"))
    model = c.Model(library, path)
    x, out = np.zeros((3, 6), np.float32), np.empty(3)
    x[2, 4] = np.nan
    arguments = lambda options=None, n=3, dtype=1: ("log_prob", dtype, pointer(x), n, options, pointer(out))  # noqa: E731
    fails(5, "in row 2, value 4", model.call, *arguments())
    fails(1, "at least one sample", model.call, *arguments(n=0))
    fails(2, "expected float32 values", model.call, *arguments(dtype=2))
    fails(2, "got uint8", model.call, *arguments(dtype=3))
    fails(2, "dtype", model.call, *arguments(dtype=9))
    fails(2, "struct_size", model.call, *arguments(c.Options(8)))
    fails(2, "no classes", model.call, *arguments(c.Options(ctypes.sizeof(c.Options), out.ctypes.data, 0, 0, 1)))
    fails(2, "null pointer", model.call, "log_prob", 1, None, 3, None, pointer(out))
    fails(2, "temperature", model.sample, 1, 3, pointer(x), c.Options(ctypes.sizeof(c.Options), None, 0, 0, -1))


def same(folder, name, path):
    model, name = name.split("/")
    wanted = np.load(os.path.join(folder, f"{model}.npz"))[name]
    with open(path) as file:
        got = np.array([float(cell) for line in file for cell in line.split(",")])
    expect_equal(path, got.reshape(wanted.shape).astype(wanted.dtype), wanted)


if __name__ == "__main__":
    {"make": make, "compare": compare, "same": same}[sys.argv[1]](*sys.argv[2:])
