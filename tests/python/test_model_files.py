"""Model files: exact, whole after a failure, and refused if they are not a model's."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from plain import plain_table
import evenflow as ef
from evenflow.cli import main


@pytest.mark.parametrize("damage", [
    lambda b: b[:-4], lambda b: b[:100], lambda b: b"", lambda b: b + b"\0", lambda b: b"\x89PNG\r\n\x1a\n" + b,
    lambda b: b"\xff" * 8 + b[8:], lambda b: b.replace(b"evenflow model", b"somebody model"),
    lambda b: b.replace(b'"format":"1"', b'"format":"9"'), lambda b: b.replace(b"CouplingFlow", b"CouplingFlwo"),
    lambda b: b.replace(b"preprocess", b"preprocezz"), lambda b: b.replace(b"couplings\\\": 4", b"couplings\\\": 3"),
    lambda b: b.replace(b"coupling0.dense0.weight", b"coupling0.dense0.wieght"), lambda b: b[:-4] + b"\0\0\xc0\x7f"])
def test_broken_model_files(tmp_path, table_model, damage):
    path = tmp_path / "m.safetensors"
    table_model.save(path)
    # As another program writes it: without the checksum, that other checks are seen.
    good = path.read_bytes().replace(b'"evenflow"', b'"somebody"').replace(b"evenflow.", b"somebody.")
    bad = damage(good)
    assert bad != good
    path.write_bytes(bad)
    with pytest.raises(ef.IoError):
        ef.load(path)


def test_damage_that_only_the_checksum_finds(tmp_path, table_model):
    path = tmp_path / "m.safetensors"
    table_model.save(path)
    good = path.read_bytes()
    flipped = good[:-2] + bytes([good[-2] ^ 1]) + good[-1:]
    for bad in (flipped, flipped.replace(b"evenflow.crc32", b"evenflow.crc22"), good.replace(b"couplings", b"couplingz")):
        path.write_bytes(bad)
        with pytest.raises(ef.IoError):
            ef.load(path)


def test_swapped_tensors_are_found(tmp_path, table_model):
    path = tmp_path / "m.safetensors"
    table_model.save(path)
    data = path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    one, other = header["coupling1.dense0.bias"], header["coupling1.dense1.bias"]
    one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[size:])
    with pytest.raises(ef.IoError):
        ef.load(path)


def test_a_deviation_that_is_not_positive(tmp_path, table, table_model):
    flow = copy.deepcopy(table_model)
    flow.named_parameters()["preprocess.std"][1] *= -1
    flow.save(tmp_path / "m")
    with pytest.raises(ef.IoError):
        ef.load(tmp_path / "m")
    for call in (lambda: flow.sample_and_log_prob(2), lambda: flow.log_prob(table)):
        with pytest.raises(ef.NumericError):
            call()


@pytest.mark.parametrize("permutation", ["shuffle", "lu"])
def test_a_permutation_with_a_channel_twice(permutation):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    flow = plain_table(3, couplings=2, hidden=(4,), permutation=permutation, preprocess="none")
    flow.init(x)
    order = flow.named_parameters()["permutation1.permutation"]
    order[2] = order[1]
    for call in (flow.log_prob, flow.forward, flow.encode, flow.loss_and_grad, flow.decode, lambda x: flow.sample(2)):
        with pytest.raises(ef.NumericError):
            call(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_no_reader_takes_leaves_the_older_file(tmp_path, table_model, bad):
    table_model.save(tmp_path / "m.safetensors")
    good = (tmp_path / "m.safetensors").read_bytes()
    table_model.named_parameters()["coupling1.dense0.bias"][2] = bad
    with pytest.raises(ef.NumericError):
        table_model.save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == good
    assert len(list(tmp_path.iterdir())) == 1


def test_an_image_of_one_pixel_stays_one(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (50, 1, 1, 3), np.uint8)
    flow = ef.NICE((1, 1, 3), couplings=2, hidden=(4,))
    flow.init(x)
    flow.save(tmp_path / "m.safetensors")
    loaded = ef.load(tmp_path / "m.safetensors")
    assert loaded.is_image and loaded.config == flow.config
    assert np.array_equal(loaded.log_prob(x), flow.log_prob(x))


def test_foreign_and_missing_files(tmp_path):
    for make in (lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("hello")):
        path = tmp_path / f"m{len(list(tmp_path.iterdir()))}.safetensors"
        make(path)
        with pytest.raises(ef.IoError):
            ef.load(path)
    # A safetensors file of another program.
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    with pytest.raises(ef.IoError):
        ef.load(path)


def test_a_file_is_replaced_as_a_whole(tmp_path, table_model):
    """Who has the older one open reads on in it."""
    path = tmp_path / "m.safetensors"
    table_model.save(path)
    before = path.read_bytes()
    with open(path, "rb") as opened:
        table_model.params[:] += 1
        table_model.save(path)
        assert opened.read() == before != path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


FULL_DISK = """
import resource, sys
import evenflow as ef
flow = ef.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    flow.save(sys.argv[1])
except ef.IoError as error:
    print("IoError", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_full_disk(tmp_path, table_model):
    path = tmp_path / "m.safetensors"
    table_model.save(path)
    good = path.read_bytes()
    assert len(good) > 2000
    out = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True)
    assert out.returncode == 0 and "IoError" in out.stdout, out.stderr
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_no_file_can_have(table_model):
    for call in (table_model.save, ef.load):
        with pytest.raises(ef.IoError):
            call("m\0.safetensors")


def test_commands_on_a_model_file_alone(tmp_path, capsys, images, glow):
    """Without a run's data and the names of its classes."""
    flow, path, data, out = glow(classes=3), *(str(tmp_path / name) for name in ("m", "x.npy", "s.npy"))
    flow.init(images[0])
    flow.save(path)
    np.save(data, images[0])
    assert main(["info", path, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["config"] == flow.config and "run" not in result and "bfloat16" not in result
    for command, word in ((["eval", path], "[data] a model file has no data of its own"),
                          (["sample", path, "--label", "3"], "expected label in 0 ... 2, got 3")):
        assert main(command) == 2
        assert word in capsys.readouterr().err
    assert main(["sample", path, "--label", "2", "--n", "3", "--out", out]) == 0
    assert np.array_equal(np.load(out), flow.sample(3, seed=0, label=2))


def test_info_of_bfloat16_nets(tmp_path, capsys):
    """How this machine multiplies their matrices."""
    plain_table(3, couplings=1, hidden=(4,), conditioner_dtype="bfloat16").save(tmp_path / "m")
    assert main(["info", str(tmp_path / "m"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["bfloat16"]
    assert found in ("pairs", "matrices", "widened")
    assert main(["info", str(tmp_path / "m")]) == 0
    assert re.search(f"bfloat16 nets: .*{found}", capsys.readouterr().out)
