"""Public data sets, from a local server that can break off and lie."""

import gzip
import hashlib
import http.server
import os
import struct
import sys
import threading

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow.data.public import SETS

pytest.importorskip("pooch")

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 5, 4), np.uint8)
FIRST = "train-images-idx3-ubyte.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.files, the first server.cut bytes of each; server.log lists the paths."""

    def do_GET(self):
        self.server.log.append(self.path)
        content = self.server.files.get(self.path.removeprefix("/data/"))
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:self.server.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A server of a small data set in MNIST's files, under MNIST's name."""
    monkeypatch.setenv("EVENFLOW_DATA", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def idx(x):
        return gzip.compress(bytes([0, 0, 8, x.ndim]) + struct.pack(f">{x.ndim}I", *x.shape) + x.tobytes())

    labels = np.arange(20, dtype=np.uint8) % 10
    files = {f"{name}-ubyte.gz": idx(x) for name, x in (
        ("train-images-idx3", IMAGES), ("train-labels-idx1", labels),
        ("t10k-images-idx3", IMAGES[:3]), ("t10k-labels-idx1", labels[:3]))}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.log, server.cut = files, [], 1 << 40
        server.url = f"http://127.0.0.1:{server.server_port}/data/"
        sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
        monkeypatch.setitem(SETS, "mnist", (server.url, sums))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_load_downloads_once(mnist, tmp_path, monkeypatch):
    data = ef.data.load("mnist")
    assert np.array_equal(data.train[..., 0], IMAGES) and len(data.test) == 3 and len(data.classes) == 10
    folder = tmp_path / "cache" / "mnist"
    assert sorted(os.listdir(folder)) == sorted(mnist.files)
    monkeypatch.setitem(sys.modules, "pooch", None)  # of files that are there, nothing is asked
    ef.data.load("mnist")
    assert ef.data.download("mnist") == str(folder) and len(mnist.log) == 4
    (folder / FIRST).unlink()
    with pytest.raises(ef.MissingExtra):
        ef.data.load("mnist")


def test_a_file_with_another_checksum(mnist, tmp_path):
    mnist.files[FIRST] = mnist.files[FIRST][:-1] + b"?"
    with pytest.raises(ef.IoError):
        ef.data.load("mnist")
    assert os.listdir(tmp_path / "cache" / "mnist") == []


def test_a_connection_that_breaks_off(mnist, tmp_path):
    mnist.cut = 100
    with pytest.raises(ef.IoError):
        ef.data.load("mnist")
    assert os.listdir(tmp_path / "cache" / "mnist") == []
    mnist.cut = 1 << 40
    assert len(ef.data.load("mnist").train) == 20


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:9/x", "file:///etc"])
def test_no_network(mnist, mirror, tmp_path):
    with pytest.raises(ef.IoError) as error:
        ef.data.download("mnist", mirror=mirror)
    files = ", ".join(f"{mirror}/{name}" for name in SETS["mnist"][1])
    assert str(error.value).endswith(f"/mnist yourself: {files}")
    assert not any((tmp_path / "cache" / "mnist").glob("*"))


def test_mirror_and_names(mnist):
    assert len(os.listdir(ef.data.download("mnist", mirror=mnist.url.rstrip("/")))) == 4
    with raises(ef.ConfigError, argument="name"):
        ef.data.download("imagenet")


def test_a_folder_that_can_not_be_made(mnist, tmp_path, monkeypatch):
    """With a home that nobody knows, as in a container under a number of no user, too: no folder ~ is made."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVENFLOW_DATA", str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(ef.IoError):
            ef.data.download("mnist")
        monkeypatch.delenv("EVENFLOW_DATA", raising=False)
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert os.listdir() == ["file"]
