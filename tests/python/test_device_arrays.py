"""Arrays on the GPU, by DLPack: what goes in, what comes out, and how long it lives."""

import ctypes
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from raised import raises

import evenflow as ef

BUILT = os.environ.get("EVENFLOW_EMULATED_BUILT", "")  # a folder of a build with EVENFLOW_TESTS
CUDA, CUDA_MANAGED = 2, 13


# DLPack's structs, once more

class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class ManagedVersioned(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
                ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", Tensor)]


KINDS = {b"dltensor": Managed, b"dltensor_versioned": ManagedVersioned}
Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
python = ctypes.pythonapi
python.PyCapsule_New.restype = ctypes.py_object
python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
python.PyCapsule_GetName.restype = ctypes.c_char_p
python.PyCapsule_GetName.argtypes = [ctypes.py_object]
python.PyCapsule_GetPointer.restype = ctypes.c_void_p
python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
python.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_void_p]


def held(capsule):
    """The struct in a capsule, which is left as it is."""
    name = python.PyCapsule_GetName(capsule)
    managed = KINDS[name].from_address(python.PyCapsule_GetPointer(capsule, name))
    managed.capsule = capsule  # lives as long
    return managed


USED = ctypes.create_string_buffer(b"used_dltensor")  # a capsule does not copy its name


def take(capsule):
    """The deleter of a capsule's tensor, as a function that a library calls without Python's lock."""
    managed = held(capsule)
    python.PyCapsule_SetName(capsule, USED)
    delete = Deleter(managed.deleter)
    return lambda: delete(ctypes.addressof(managed))


def address(array):
    """Of an array on the GPU."""
    return held(array.__dlpack__()).tensor.data


KEPT: list = []
"""What borrowers call or read, who may live longer than the lender."""


class Lender:
    """Another library's array on the GPU: values in the managed memory of a flow's parameters.

    wrong: fields of DLPack's structs that are set otherwise; `raises`, an error of the export.
    """

    def __init__(self, values, versioned=True, told=(CUDA, 0), **wrong):
        self.memory = ef.NICE(max(values.nbytes, 64), couplings=1, hidden=(1,), dtype="float64", device="cuda")
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self.memory.params.view(np.uint8)[:len(flat)] = flat
        self.values, self.versioned, self.told, self.wrong = values, versioned, told, wrong
        self.asked, self.kept, self.given_back = [], [], 0

    def __dlpack_device__(self):
        return self.told

    def __dlpack__(self, stream=None, **versions):
        if not self.versioned and versions:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        self.asked.append((stream, versions))
        wrong, dtype = dict(self.wrong), self.values.dtype
        if "raises" in wrong:
            raise wrong["raises"]
        capsule = self.memory.device_params.__dlpack__(max_version=(1, 0) if self.versioned else None)
        managed = held(capsule)
        delete = Deleter(managed.deleter)

        def give_back(pointer):
            self.given_back += 1
            delete(pointer)

        shape, strides = wrong.pop("shape", self.values.shape), wrong.pop("strides", None)
        lengths, steps = (ctypes.c_int64 * len(shape))(*shape), (ctypes.c_int64 * len(shape))(*(strides or ()))
        deleter = Deleter(give_back)
        self.kept.append((lengths, steps, deleter))
        KEPT.append(self.kept[-1])
        fields = {"deleter": ctypes.cast(deleter, ctypes.c_void_p), "ndim": len(shape), "shape": lengths,
                  "strides": steps if strides else None, "code": {"i": 0, "u": 1, "f": 2}[dtype.kind],
                  "bits": 8 * dtype.itemsize, **wrong}
        for name, value in fields.items():
            setattr(managed if hasattr(managed, name) else managed.tensor, name, value)
        return capsule


def of_capsule(capsule):
    """What has nothing but a capsule."""
    return type("Holder", (), {"__dlpack_device__": lambda self: (CUDA, 0),
                               "__dlpack__": lambda self, stream, max_version: capsule})()


@pytest.fixture
def flow(glow, images, gpu):
    flow = glow(device=gpu, classes=3, class_weight=0.1, seed=2)
    flow.init(images[0])
    return flow


@pytest.fixture
def table_flow(real_nvp, table, gpu):
    flow = real_nvp(device=gpu, dtype="float64", seed=1)
    flow.init(table)
    return flow


def same(there, here):
    """What a call gives on the GPU and in main memory."""
    if isinstance(here, tuple):
        for one, other in zip(there, here, strict=True):
            same(one, other)
        return
    assert isinstance(there, ef.DeviceArray) and isinstance(here, np.ndarray)
    assert (there.shape, there.dtype, there.ndim, there.size, len(there)) == (
        here.shape, here.dtype, here.ndim, here.size, len(here))
    assert np.array_equal(np.asarray(there), here)


@pytest.mark.any_device
@pytest.mark.parametrize("how", [{}, {"versioned": False}, {"told": (CUDA_MANAGED, 0), "device_type": CUDA_MANAGED}])
@pytest.mark.parametrize("whole_levels", [False, True])
def test_calls(flow, images, how, whole_levels):
    x, labels = images
    x = x if whole_levels else x.astype(np.float32) + np.float32(0.25)
    z = flow.encode(x, label=labels)
    for name, value, given in (("log_prob", x, dict(label=labels, seed=3, first=5)), ("class_log_prob", x, {}),
                               ("forward", x, dict(label=labels)), ("inverse", z, dict(label=labels)),
                               ("encode", x, dict(label=labels)), ("decode", z, dict(label=labels)),
                               ("log_prob_and_grad", x, dict(label=labels)), ("base_log_prob", z, {})):
        call = getattr(flow, name)
        same(call(Lender(value, **how), **given), call(value, **given))
    for call in (flow.bits_per_dim, flow.loss_and_grad):
        there, here = call(Lender(x, **how), label=labels, seed=4), call(x, label=labels, seed=4)
        np.testing.assert_allclose(there, here, rtol=1e-15)


@pytest.mark.any_device
@pytest.mark.parametrize("name", ["backward", "inverse_backward"])
def test_gradients(table_flow, table, name):
    rng, call = np.random.default_rng(0), getattr(table_flow, name)
    first = table_flow.encode(table) if name == "backward" else table
    dz, dlogdet = rng.standard_normal(first.shape), rng.standard_normal(len(first))
    here, grads = call(first, dz, dlogdet), table_flow.grads.copy()
    assert grads.any()
    table_flow.zero_grad()
    same(call(Lender(first), Lender(dz), Lender(dlogdet)), here)
    assert np.array_equal(table_flow.grads, grads)
    same(call(Lender(first), dz, dlogdet), here)
    # Results lie where the first array does.
    assert isinstance(call(first, Lender(dz), dlogdet)[0], np.ndarray)


@pytest.mark.any_device
def test_samples(flow):
    how = dict(temperature=0.7, seed=9, label=[0, 1, 2], first=4)
    for call in (flow.sample, flow.sample_and_log_prob):
        same(call(3, device="cuda", **how), call(3, **how))
    with raises(ef.DeviceError, argument="device"):
        flow.sample(3, device="tpu", label=0)


ONES = np.ones((3, 4, 4, 2), np.float32)


@pytest.mark.any_device
@pytest.mark.parametrize("lender, error", [
    (dict(values=ONES.astype(np.float64)), TypeError), (dict(values=ONES.astype(np.int32)), TypeError),
    (dict(code=4, bits=16), TypeError), (dict(code=6, bits=8), TypeError), (dict(lanes=2), TypeError),
    (dict(code=17, bits=8), TypeError), (dict(strides=(32, 1, 4, 16)), TypeError),
    (dict(strides=(0, 8, 2, 1)), TypeError), (dict(shape=(3, 32)), ef.ShapeError), (dict(shape=()), ef.ShapeError),
    (dict(shape=(-1, 4, 4, 2)), TypeError), (dict(shape=(2**40, 2**40, 4, 2)), TypeError), (dict(data=None), TypeError),
    (dict(byte_offset=2), TypeError), (dict(device_type=1), TypeError), (dict(device_id=1), TypeError),
    (dict(major=2), TypeError), (dict(told=(CUDA, 1)), ef.DeviceError),
    (dict(raises=BufferError("can't export tensors that require gradient")), TypeError)])
def test_what_can_not_be_taken(flow, lender, error):
    lender = Lender(**{"values": ONES, **lender})
    before = flow.params.copy()
    for call in (flow.log_prob, flow.forward, flow.loss_and_grad, flow.log_prob_and_grad):
        with pytest.raises(error):
            call(lender, label=0)
    assert lender.given_back == len(lender.kept)  # whatever was taken
    assert np.array_equal(flow.params, before)


@pytest.mark.any_device
def test_values_that_are_not_finite(flow, table_flow):
    x = ONES.copy()
    x[2, 1, 3, 1] = np.nan
    lender = Lender(x)
    for call in (flow.log_prob, flow.forward, flow.loss_and_grad, flow.log_prob_and_grad):
        with raises(ef.NumericError, row=2):
            call(lender, label=0)
    assert lender.given_back == 4
    z, bad, ones = np.zeros((4, 3)), np.zeros((4, 3)), np.ones(4)
    bad[3, 1] = -np.inf
    for arrays in ((bad, z, ones), (z, bad, ones), (z, z, np.array([1, 2, 3, np.nan]))):
        for call in (table_flow.backward, table_flow.inverse_backward):
            with raises(ef.NumericError, row=3):
                call(*map(Lender, arrays))
    assert not table_flow.grads.any()
    with raises(ef.NumericError, row=3, column=1):
        table_flow.inverse(Lender(bad))


@pytest.mark.any_device
@pytest.mark.parametrize("version, name", [(None, b"dltensor"), ((0, 8), b"dltensor"),
                                           ((1, 0), b"dltensor_versioned"), ((2, 1), b"dltensor_versioned")])
def test_what_other_libraries_get(table_flow, version, name):
    x = table_flow.sample(5, device="cuda")[1:]
    for stream in (None, 1, 2, -1, 12345):
        capsule = x.__dlpack__(stream=stream, max_version=version)
        assert python.PyCapsule_GetName(capsule) == name
    managed = held(capsule)
    tensor = managed.tensor
    assert (tensor.device_type, tensor.device_id) == x.__dlpack_device__() == (CUDA, 0)
    assert (tensor.code, tensor.bits, tensor.lanes, tensor.byte_offset) == (2, 64, 1, 0)
    assert tensor.shape[:tensor.ndim] == [4, 3] and tensor.strides[:tensor.ndim] == [3, 1]
    if name == b"dltensor_versioned":
        assert (managed.major, managed.minor, managed.flags) == (1, 0, 0)
    assert tensor.data == address(x[:1]) == address(x) == address(x[2:]) - 2 * 3 * 8
    assert repr(x) == "<DeviceArray (4, 3) float64 on cuda:0>" and x.device == "cuda"
    for wrong in (dict(copy=True), dict(dl_device=(1, 0)), dict(dl_device=(CUDA, 1))):
        with pytest.raises(BufferError):
            x.__dlpack__(**wrong)
    assert held(x.__dlpack__(dl_device=(CUDA, 0), copy=False)).tensor.data == tensor.data


def test_models_on_the_cpu(table_model):
    """Say clearly what they can't take."""
    flow, lender = table_model, of_capsule(None)
    for call in (flow.log_prob, flow.encode, flow.decode, flow.loss_and_grad, flow.init):
        with pytest.raises(TypeError):
            call(lender)

    class Nowhere:
        def __dlpack_device__(self):
            raise ValueError("on no device")

        __dlpack__ = __dlpack_device__

    with raises(TypeError, argument="x"):
        flow.log_prob(Nowhere())
    for name in ("device_params", "device_grads"):
        with pytest.raises(ef.DeviceError):
            getattr(flow, name)
    with raises(ef.DeviceError, argument="device"):
        flow.sample(3, device="cuda")


@pytest.mark.skipif(not BUILT, reason="EVENFLOW_EMULATED_BUILT names no folder")
def test_on_the_emulated_device():
    """All of the above, and the rest of what the public surface does on a device."""
    here = pathlib.Path(__file__)
    others = ("average", "context", "device", "flows", "ranks")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", "cuda", here,
                           *(here.with_name(f"test_{name}.py") for name in others)],
                          capture_output=True, text=True,
                          env={**os.environ, "EVENFLOW_CUDA_LIBRARY": f"{BUILT}/libevenflow_emulated.so",
                               "EVENFLOW_CUBLASLT_LIBRARY": f"{BUILT}/libfake_cublaslt.so"})
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout
