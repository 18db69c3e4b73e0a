"""The public surface on the device of --device, against the CPU; and what is said where there is none."""

import os
import subprocess
import sys

import numpy as np
import pytest

import evenflow as ef


def pair(make, device):
    """The same model twice: on the CPU and on the device."""
    return make(device="cpu", dtype="float64"), make(device=device, dtype="float64")


@pytest.mark.any_device
def test_glow(glow, images, device):
    x, _ = images
    here, there = pair(glow, device)
    assert there.device == device
    for flow in (here, there):
        flow.init(x)
    np.testing.assert_allclose(there.log_prob(x), here.log_prob(x), rtol=1e-10)
    np.testing.assert_allclose(there.sample(5, seed=3), here.sample(5, seed=3), rtol=1e-8)
    z, logdet = there.forward(x)
    np.testing.assert_allclose(there.inverse(z)[0], here.inverse(z)[0], rtol=1e-8)
    np.testing.assert_allclose(there.loss_and_grad(x), here.loss_and_grad(x), rtol=1e-10)
    np.testing.assert_allclose(there.grads, here.grads, atol=1e-8)


@pytest.mark.any_device
def test_matmul_precision(glow, images, device):
    """Of two parts a number the device's densities are others, and the CPU's the same."""
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
    np.testing.assert_allclose(high, highest, rtol=1e-4)
    assert np.array_equal(high, highest) == (device == "cpu")
    assert np.array_equal(flow.log_prob(x), highest)


@pytest.mark.any_device
@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_nets_wider_than_a_tile(dtype, rtol, device):
    """Of matrix units: 128 channels, and of steps of a sum as many as a product's parts have."""
    x = 256 * np.random.default_rng(5).random((3, 8, 8, 3), dtype=np.float32)
    found = []
    for place in ("cpu", device):
        flow = ef.Glow((8, 8, 3), levels=2, steps=1, hidden=136, conditioner_dtype=dtype, device=place)
        flow.init(x)
        flow.params[:] += np.random.default_rng(3).normal(0, 0.01, flow.params.size)  # nets begin with zeros
        loss = flow.loss_and_grad(x)
        found.append((loss, flow.log_prob(x), np.array(flow.grads)))
    (loss, log_prob, grads), (loss_there, log_prob_there, grads_there) = found
    assert np.isclose(loss_there, loss, rtol=rtol)
    np.testing.assert_allclose(log_prob_there, log_prob, rtol=rtol)
    np.testing.assert_allclose(grads_there, grads, atol=rtol * np.abs(grads).max())


@pytest.mark.any_device
@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_more_rows_than_narrow_tiles_are_for(dtype, rtol, device):
    """Few rows have narrow tiles, which are divided among more multiprocessors; these have wide ones."""
    x = np.random.default_rng(5).normal(size=(4400, 2)).astype(np.float32)
    found = []
    for place in ("cpu", device):
        flow = ef.CouplingFlow(2, couplings=1, hidden=(128,), conditioner_dtype=dtype, device=place)
        flow.init(x)
        flow.params[:] += np.random.default_rng(3).normal(0, 0.01, flow.params.size)
        found.append((flow.loss_and_grad(x), np.array(flow.grads)))
    (loss, grads), (loss_there, grads_there) = found
    assert np.isclose(loss_there, loss, rtol=rtol)
    np.testing.assert_allclose(grads_there, grads, atol=rtol * np.abs(grads).max())


@pytest.mark.any_device
def test_training(real_nvp, table, device):
    here, there = pair(real_nvp, device)
    histories = []
    for flow in (here, there):
        flow.init(table)
        histories.append(flow.fit(table, epochs=2, batch_size=50, optimizer="adam", clip=1.0, average=0.9))
    np.testing.assert_allclose(there.params, here.params, atol=1e-7)
    there.params[:] = here.params
    np.testing.assert_allclose(there.log_prob(table), here.log_prob(table), rtol=1e-8)


@pytest.mark.any_device
def test_moving_average(real_nvp, table, device):
    averages = []
    for flow in pair(real_nvp, device):
        flow.init(table)
        average = ef.MovingAverage(flow, 0.9)
        view = average.average
        for _ in range(3):
            flow.params[:] += 1
            average.update()
        np.testing.assert_allclose(flow.params - average.values()[:flow.params.size], 0.9 + 0.81 + 0.729)
        assert np.array_equal(view, average.average)  # one array, which kernels and the program share
        averages.append(average.values())
    np.testing.assert_allclose(averages[1], averages[0], rtol=1e-12)


@pytest.mark.any_device
def test_files_move_between_devices(real_nvp, table, device, tmp_path):
    here, _ = pair(real_nvp, device)
    here.init(table)
    here.save(tmp_path / "model.safetensors")
    there = ef.load(tmp_path / "model.safetensors", device=device)
    np.testing.assert_allclose(there.log_prob(table), here.log_prob(table), rtol=1e-10)
    there.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def message(**environment):
    """Of a model of device cuda in a new process, which loads the backend anew."""
    code = ("import evenflow as ef\n"
            "try:\n    ef.CouplingFlow(2, couplings=1, hidden=(2,), device='cuda')\n"
            "except ef.DeviceError as error:\n    print(error)\n"
            "else:\n    print('it is there')\n")
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True,
                          capture_output=True, text=True).stdout


def test_a_missing_backend_says_what_is_missing(tmp_path):
    text = message(EVENFLOW_CUDA_LIBRARY=str(tmp_path / "none.so"))
    assert "libevenflow_cuda.so" in text and "none.so" in text and 'pip install "evenflow[cuda]"' in text


def test_another_library_is_no_backend(tmp_path):
    text = message(EVENFLOW_CUDA_LIBRARY="libc.so.6")
    assert "another kind of library" in text


def test_a_package_whose_library_is_damaged(tmp_path, monkeypatch):
    monkeypatch.delenv("EVENFLOW_CUDA_LIBRARY", raising=False)
    (tmp_path / "evenflow_cuda").mkdir()
    (tmp_path / "evenflow_cuda" / "__init__.py").touch()
    (tmp_path / "evenflow_cuda" / "libevenflow_cuda.so").write_text("not a library")
    text = message(PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert "[evenflow_cuda] expected a library that loads, got: " in text and str(tmp_path) in text


@pytest.mark.skipif("EVENFLOW_CUDA_BUILT" not in os.environ, reason="EVENFLOW_CUDA_BUILT names no backend")
def test_the_backend_without_a_gpu():
    text = message(EVENFLOW_CUDA_LIBRARY=os.environ["EVENFLOW_CUDA_BUILT"])
    assert "it is there" in text or "expected an NVIDIA GPU and its driver" in text
