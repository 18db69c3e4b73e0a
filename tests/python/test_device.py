"""The public surface on the device of --device, against the CPU; and what is said where there is none."""

import os
import subprocess
import sys

import numpy as np
import pytest

import evenflow as ef

RNG = np.random.default_rng(5)
PICTURES = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
TABLE = RNG.normal(size=(4400, 2)).astype(np.float32)


def small(**how):
    return ef.Glow((8, 8, 3), levels=2, steps=2, hidden=8, dtype="float64", **how)


def wide(**how):
    """Nets wider than a tile of a matrix product."""
    return ef.Glow((8, 8, 3), levels=2, steps=1, hidden=136, **how)


def many_rows(**how):
    return ef.CouplingFlow(2, couplings=1, hidden=(128,), **how)


@pytest.mark.any_device
@pytest.mark.parametrize("make, x, dtype, rtol", [
    (small, PICTURES, "float64", 1e-10), (wide, PICTURES, "float32", 1e-5), (wide, PICTURES, "bfloat16", 1e-2),
    (many_rows, TABLE, "float32", 1e-5), (many_rows, TABLE, "bfloat16", 1e-2)])
def test_calls(make, x, dtype, rtol, device):
    found = []
    for place in ("cpu", device):
        flow = make(conditioner_dtype=dtype, device=place)
        assert flow.device == place
        flow.init(x)
        flow.params[:] += np.random.default_rng(3).normal(0, 0.01, flow.params.size)  # nets begin with zeros
        z, logdet = flow.forward(x)
        loss = flow.loss_and_grad(x, seed=0)
        found.append((flow.log_prob(x), z, logdet, flow.inverse(z)[0], flow.sample(5, seed=3), loss, flow.grads.copy()))
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=rtol, atol=rtol * np.abs(here).max())


@pytest.mark.any_device
def test_matmul_precision(glow, images, device):
    """With TF32 the device's densities are others, and the CPU's the same."""
    x, _ = images
    flow = glow(device=device)
    flow.init(x)
    flow.params[:] += np.random.default_rng(3).normal(0, 0.02, flow.params.size)  # nets begin with zeros
    assert ef.matmul_precision() == "highest"
    highest = flow.log_prob(x)
    ef.set_matmul_precision("high")
    try:
        assert ef.matmul_precision() == "high"
        high = flow.log_prob(x)
    finally:
        ef.set_matmul_precision("highest")
    np.testing.assert_allclose(high, highest, rtol=1e-3)
    assert np.array_equal(high, highest) == (device == "cpu")
    assert np.array_equal(flow.log_prob(x), highest)


@pytest.fixture
def pair(real_nvp, table, device):
    """The same flow twice, on the CPU and on the device, which have seen `table`."""
    flows = [real_nvp(device=place, dtype="float64") for place in ("cpu", device)]
    for flow in flows:
        flow.init(table)
    return flows


@pytest.mark.any_device
def test_training(pair, table):
    here, there = pair
    for flow in pair:
        flow.fit(table, epochs=2, batch_size=50, optimizer="adam", settings=ef.Settings(clip=1.0, average=0.9))
    np.testing.assert_allclose(there.params, here.params, atol=1e-7)
    there.params[:] = here.params
    np.testing.assert_allclose(there.log_prob(table), here.log_prob(table), rtol=1e-8)


@pytest.mark.any_device
def test_files_move_between_devices(pair, table, device, tmp_path):
    pair[0].save(tmp_path / "model.safetensors")
    there = ef.load(tmp_path / "model.safetensors", device=device)
    np.testing.assert_allclose(there.log_prob(table), pair[0].log_prob(table), rtol=1e-10)
    there.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def message(library, **environment):
    """Of a model of device cuda in a new process, which loads the backend anew."""
    code = ("import evenflow as ef\n"
            "try:\n    ef.CouplingFlow(2, couplings=1, hidden=(2,), device='cuda').init([[0., 1.], [2., 0.]])\n"
            "except ef.DeviceError as error:\n    print(error)\n"
            "else:\n    print('it is there')\n")
    environment = {**os.environ, "EVENFLOW_CUDA_LIBRARY": library, **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True,
                          text=True).stdout


@pytest.mark.parametrize("library, words", [
    ("/none.so", ["libevenflow_cuda.so", "none.so", 'pip install "evenflow[cuda]"']),
    ("libc.so.6", ["another kind of library"])])
def test_libraries_that_are_no_backend(library, words):
    text = message(library)
    assert all(word in text for word in words)


@pytest.mark.skipif("EVENFLOW_EMULATED_BUILT" not in os.environ, reason="EVENFLOW_EMULATED_BUILT names no folder")
@pytest.mark.parametrize("library, words", [
    ("/none.so", "expected a library in EVENFLOW_CUBLASLT_LIBRARY, got /none.so"),
    ("libc.so.6", "expected cublasLtCreate in libc.so.6"), ("none", "it is there")])
def test_libraries_for_products(library, words):
    built = os.environ["EVENFLOW_EMULATED_BUILT"]
    assert words in message(f"{built}/libevenflow_emulated.so", EVENFLOW_CUBLASLT_LIBRARY=library)


def test_a_package_whose_library_is_damaged(tmp_path):
    (tmp_path / "evenflow_cuda").mkdir()
    (tmp_path / "evenflow_cuda" / "__init__.py").touch()
    (tmp_path / "evenflow_cuda" / "libevenflow_cuda.so").write_text("not a library")
    text = message("", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert "[cuda] expected a library that loads, got: " in text and str(tmp_path) in text


@pytest.mark.skipif("EVENFLOW_CUDA_BUILT" not in os.environ, reason="EVENFLOW_CUDA_BUILT names no backend")
def test_the_backend_without_a_gpu():
    text = message(os.environ["EVENFLOW_CUDA_BUILT"])
    assert "it is there" in text or "expected an NVIDIA GPU and its driver" in text
