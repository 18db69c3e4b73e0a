"""Public data sets, from a local server that can break off, lie and forget ranges."""

import gzip
import hashlib
import http.server
import os
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest

import evenflow as ef
from evenflow.data.public import SETS, Public


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.files; server.log lists (path, Range). server.cut: bytes until a connection breaks.

    server.ranges: True, False, or "whole" for a server that takes any range for the whole file, and says so.
    """

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.log.append((self.path, wanted))
        content = server.files.get(self.path.removeprefix("/data/"))
        if content is None:
            return self.send_error(404)
        start = 0
        if wanted is not None and server.ranges:
            start = 0 if server.ranges == "whole" else int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:start + server.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("EVENFLOW_DATA", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.log, server.ranges, server.cut = {}, [], True, 1 << 40
        server.url = f"http://127.0.0.1:{server.server_port}/data/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 5, 4), np.uint8)


@pytest.fixture
def mnist(server, monkeypatch):
    """A small data set in MNIST's files, under MNIST's name."""
    def idx(x):
        return gzip.compress(bytes([0, 0, 8, x.ndim]) + struct.pack(f">{x.ndim}I", *x.shape) + x.tobytes(),
                             mtime=0)
    labels = np.arange(20, dtype=np.uint8) % 10
    server.files = {f"{name}-ubyte.gz": idx(x) for name, x in (
        ("train-images-idx3", IMAGES), ("train-labels-idx1", labels),
        ("t10k-images-idx3", IMAGES[:3]), ("t10k-labels-idx1", labels[:3]))}
    sums = {name: hashlib.md5(content).hexdigest() for name, content in server.files.items()}
    monkeypatch.setitem(SETS, "mnist", Public((server.url,), sums))
    return server


FIRST = "train-images-idx3-ubyte.gz"


def test_load_downloads_once(mnist, tmp_path):
    data = ef.data.load("mnist")
    assert np.array_equal(data.train[..., 0], IMAGES) and len(data.test) == 3 and len(data.classes) == 10
    assert sorted(os.listdir(tmp_path / "cache" / "mnist")) == sorted(mnist.files)
    assert len(mnist.log) == 4
    ef.data.load("mnist")
    assert ef.data.download("mnist") == str(tmp_path / "cache" / "mnist") and len(mnist.log) == 4


def test_broken_connections_are_resumed(mnist):
    mnist.cut = 100
    data = ef.data.load("mnist")
    assert np.array_equal(data.train[..., 0], IMAGES)
    ranges = [wanted for path, wanted in mnist.log if path == "/data/" + FIRST]
    assert ranges[:3] == [None, "bytes=100-", "bytes=200-"]


def test_an_earlier_part_is_continued(mnist, tmp_path):
    folder = tmp_path / "cache" / "mnist"
    folder.mkdir(parents=True)
    (folder / f"{FIRST}.part").write_bytes(mnist.files[FIRST][:150])
    assert np.array_equal(ef.data.load("mnist").train[..., 0], IMAGES)
    assert mnist.log[0] == ("/data/" + FIRST, "bytes=150-")
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("part", [b"x" * 150, b"x" * 5000, "whole"])
def test_a_foreign_part_is_replaced(mnist, tmp_path, part):
    folder = tmp_path / "cache" / "mnist"
    folder.mkdir(parents=True)
    (folder / f"{FIRST}.part").write_bytes(mnist.files[FIRST] if part == "whole" else part)
    assert np.array_equal(ef.data.load("mnist").train[..., 0], IMAGES)
    assert len([path for path, _ in mnist.log if path == "/data/" + FIRST]) == (1 if part == "whole" else 2)


@pytest.mark.parametrize("ranges", [False, "whole"])
def test_a_server_without_ranges(mnist, tmp_path, ranges):
    """What it sends is not appended to the part that is there."""
    folder = tmp_path / "cache" / "mnist"
    folder.mkdir(parents=True)
    (folder / f"{FIRST}.part").write_bytes(mnist.files[FIRST][:150])
    mnist.ranges = ranges
    assert np.array_equal(ef.data.load("mnist").train[..., 0], IMAGES)
    assert [path for path, _ in mnist.log].count("/data/" + FIRST) == 1


def test_wrong_checksum(mnist, tmp_path):
    mnist.files[FIRST] = mnist.files[FIRST][:-1] + b"?"
    with pytest.raises(ef.IoError, match=r"\[download\] expected train-images.*MD5 .* instead of") as error:
        ef.data.load("mnist")
    assert mnist.url in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path / "cache" / "mnist") == []


def test_next_address(mnist, monkeypatch):
    sums = SETS["mnist"].files
    monkeypatch.setitem(SETS, "mnist", Public((mnist.url + "gone/", "http://127.0.0.1:9/", mnist.url), sums))
    assert len(ef.data.load("mnist").train) == 20


@pytest.mark.parametrize("mirror, word", [
    ("http://127.0.0.1:9/x", "refused"), ("file:///etc", "http"),
])
def test_no_network(mnist, mirror, word, tmp_path):
    with pytest.raises(ef.IoError, match=r"\[download\] expected train-images") as error:
        ef.data.download("mnist", mirror=mirror)
    assert word in str(error.value) and "put there by hand" in str(error.value)
    others = ", ".join(f"{mirror}/{name}" for name in list(SETS["mnist"].files)[1:])
    assert str(error.value).endswith(f"; not fetched either: {others}")
    assert not os.listdir(tmp_path / "cache" / "mnist")


FETCH = """
import sys
from evenflow.data import public
public.SETS["mnist"] = public.Public((sys.argv[1],), dict(a.split("=") for a in sys.argv[2:]))
public.download("mnist")
"""


def test_two_processes_share_one_download(mnist, tmp_path):
    """One waits for the other, and finds the files there; every byte is fetched once."""
    mnist.cut = 60
    arguments = [sys.executable, "-c", FETCH, mnist.url, *("=".join(item) for item in SETS["mnist"].files.items())]
    processes = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert len(mnist.log) == len(set(mnist.log))
    assert sorted(os.listdir(tmp_path / "cache" / "mnist")) == sorted(mnist.files)
    assert len(ef.data.load("mnist").train) == 20


def test_no_progress_ends(mnist):
    mnist.cut = 0
    with pytest.raises(ef.IoError, match="closed early"):
        ef.data.download("mnist")
    assert len(mnist.log) == 3


def test_mirror_and_names(mnist):
    assert len(os.listdir(ef.data.download("mnist", mirror=mnist.url.rstrip("/")))) == 4
    with pytest.raises(ef.ConfigError, match="'mnist', 'fashion-mnist', 'cifar10', 'cifar100', 'svhn'"):
        ef.data.download("imagenet")
    with pytest.raises(TypeError, match=r"\[download\] expected an address as text for mirror, got 3"):
        ef.data.download("mnist", mirror=3)
    with pytest.raises(ef.IoError, match="one of digits.*svhn, got imagenet"):
        ef.data.load("imagenet")


def test_unwritable_folder(mnist, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVENFLOW_DATA", str(tmp_path / "file"))
    with pytest.raises(ef.IoError, match="expected to make the folder"):
        ef.data.download("mnist")


def test_no_home(mnist, tmp_path, monkeypatch):
    """Nor a passwd entry, as in a container under a number of no user: no folder of the name ~ is made."""
    def unknown(number):
        raise KeyError(number)

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENFLOW_DATA")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(ef.IoError, match=r"\[download\] expected HOME or EVENFLOW_DATA to say where"):
        ef.data.download("mnist")
    assert not os.listdir()


def test_known_sets():
    for public in SETS.values():
        assert all(url.endswith("/") for url in public.addresses)
        assert all(len(md5) == 32 and set(md5) <= set("0123456789abcdef") for md5 in public.files.values())
