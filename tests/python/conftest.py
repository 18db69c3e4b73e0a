"""Small models and data for the tests of the public surface."""

import signal

import numpy as np
import pytest

import evenflow as ef
from plain import plain_table


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the models of the fixtures compute: cpu or cuda")
    parser.addoption("--list-skipped", metavar="FILE", help="writes the names of skipped tests there, for pytest @FILE")
    parser.addoption("--all", action="store_true", help="slow tests too; none may be skipped for want of a package")


def pytest_configure(config):
    config.addinivalue_line("markers", "any_device: runs on the device of --device; others are skipped there")
    config.addinivalue_line("markers", "slow: skipped without --all")


def pytest_collection_modifyitems(config, items):
    """With --device cuda only the tests that ask for it run, and without a GPU none; the count says so."""
    if not config.getoption("--all"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: --all runs it"))
    device = config.getoption("--device")
    if device == "cpu":
        return
    missing = None
    try:
        ef.CouplingFlow(2, couplings=1, hidden=(2,), device=device)
    except ef.DeviceError as error:
        missing = str(error)
    for item in items:
        if item.get_closest_marker("any_device") is None:
            item.add_marker(pytest.mark.skip(reason="computes on the CPU"))
        elif missing:
            item.add_marker(pytest.mark.skip(reason=f"no {device}: {missing}"))


def pytest_terminal_summary(terminalreporter, config):
    path = config.getoption("--list-skipped")
    if path:
        names = {report.nodeid for report in terminalreporter.stats.get("skipped", [])}
        with open(path, "w") as file:
            file.writelines(f"{name}\n" for name in sorted(names))


def pytest_sessionfinish(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--all") and reporter is not None:
        missing = [report for report in reporter.stats.get("skipped", [])
                   if "could not import" in str(report.longrepr) or "needs " in str(report.longrepr)]
        for report in missing:
            reporter.write_line(f"FAILED {report.nodeid}: with --all no package may be missing")
        session.exitstatus = session.exitstatus or bool(missing)


@pytest.fixture
def device(request):
    """The device of --device."""
    return request.config.getoption("--device")


@pytest.fixture
def gpu(device):
    if device == "cpu":
        pytest.skip("has no GPU; test_on_the_emulated_device runs it there")
    return device


@pytest.fixture
def block_of(monkeypatch):
    """Sets how many values there are in a block of a call."""
    def sets(values):
        monkeypatch.setattr("evenflow.density.FIRST_VALUES", values)
        monkeypatch.setattr("evenflow.density.BLOCK_VALUES", values)
    return sets


@pytest.fixture
def images():
    """(64, 4, 4, 2) uint8, smooth enough to be learned, with labels (64,) in 0 ... 2."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 64)
    base = np.linspace(20, 160, 16).reshape(4, 4, 1) + 30 * labels[:, None, None, None]
    return np.clip(base + rng.normal(0, 8, (64, 4, 4, 2)), 0, 255).astype(np.uint8), labels


@pytest.fixture
def pictures():
    """(40, 6, 5, 3) uint8, nothing but noise."""
    return np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), np.uint8)


@pytest.fixture
def table():
    """(200, 3) float64 with correlated columns of different sizes."""
    rng = np.random.default_rng(2)
    a = rng.standard_normal((200, 3))
    return np.stack([100 + 5 * a[:, 0], a[:, 0]**2 + 0.3 * a[:, 1], 0.01 * a[:, 2]], axis=1)


@pytest.fixture
def glow():
    """Makes a Glow for `images`."""
    def make(**settings):
        return ef.Glow((4, 4, 2), **{"levels": 1, "steps": 2, "hidden": 8, **settings})
    return make


@pytest.fixture
def real_nvp():
    """Makes a CouplingFlow for `table`."""
    def make(**settings):
        return plain_table(3, **{"couplings": 4, "hidden": (8, 8), **settings})
    return make


@pytest.fixture
def model(images, glow):
    """A Glow that has seen `images`."""
    flow = glow()
    flow.init(images[0])
    return flow


@pytest.fixture
def table_model(table, real_nvp):
    """A CouplingFlow that has seen `table`."""
    flow = real_nvp()
    flow.init(table)
    return flow


@pytest.fixture
def hang_up():
    """SIGHUP as a terminal leaves it, for this process and those it starts: under nohup it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
