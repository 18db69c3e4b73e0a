"""One flow, one file, many threads and processes; copies and pickles."""

import copy
import multiprocessing
import pickle
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import evenflow as ef

forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")


@pytest.fixture
def busy():
    """A flow that has used its two threads, and data."""
    x = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)
    flow = ef.Glow((16, 16, 3), levels=2, steps=2, hidden=64, threads=2)
    flow.fit(x, steps=1)
    return flow, x


def in_children(count, job):
    """Whether job(i) is true in each of `count` forked processes, which get a minute."""
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=lambda i=i: exit(0 if job(i) else 3)) for i in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        for child in children:
            child.start()
    try:
        for child in children:
            child.join(60)
        return [child.exitcode for child in children] == [0] * count
    finally:
        for child in children:
            child.kill()
            child.join()


@forks
def test_a_fork_computes_the_same_bits(busy):
    flow, x = busy
    wanted, trained = flow.log_prob(x), copy.deepcopy(flow)
    trained.fit(x, steps=2)

    def job(i):
        same = np.array_equal(flow.log_prob(x), wanted)
        flow.fit(x, steps=2)
        return same and np.array_equal(flow.params, trained.params)

    assert in_children(2, job)
    assert np.array_equal(flow.log_prob(x), wanted)


def test_joblib_computes_the_same_bits(busy):
    joblib = pytest.importorskip("joblib")
    flow, x = busy
    try:
        found = joblib.Parallel(2, backend="loky")(3 * [joblib.delayed(flow.log_prob)(x)])
    finally:
        joblib.externals.loky.get_reusable_executor().shutdown()
    assert np.array_equal(found, 3 * [flow.log_prob(x)])


BESIDE_TORCH = """
import os
{imports}
flow = evenflow.CouplingFlow(8, hidden=(64, 64), threads=2, seed=0)
x = torch.linspace(-1, 1, 80_000).reshape(10_000, 8)
flow.init(x.numpy())
torch.set_num_threads(2)
(torch.ones(500, 500) @ torch.ones(500, 500)).sum()
wanted = flow.log_prob(x.numpy())
child = os.fork()
if child == 0:
    os._exit(0 if (flow.log_prob(x.numpy()) == wanted).all() else 3)
assert os.waitpid(child, 0)[1] == 0
print(wanted.tobytes().hex())
"""


@forks
def test_torch_may_be_imported_before_or_after():
    pytest.importorskip("torch")
    found = [subprocess.run([sys.executable, "-W", "ignore", "-c", BESIDE_TORCH.format(imports=imports)],
                            capture_output=True, text=True, timeout=120, check=True).stdout
             for imports in ("import torch, evenflow", "import evenflow, torch")]
    assert found[0] and found[0] == found[1]


def test_threads_read_while_one_trains(busy):
    """Their numbers may be mixed, but nothing crashes, and the training is as if alone."""
    flow, x = busy
    errors = []

    def work(call):
        try:
            for _ in range(3):
                call()
        except Exception as error:
            errors.append(error)

    z, alone = flow.encode(x), copy.deepcopy(flow)
    calls = [lambda: flow.log_prob(x), lambda: flow.encode(x), lambda: flow.decode(z), lambda: flow.sample(20),
             lambda: flow.fit(x, steps=2), lambda: flow.named_parameters(), lambda: pickle.dumps(flow)]
    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for _ in range(3):
        alone.fit(x, steps=2)
    assert np.array_equal(flow.params, alone.params)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))])
def test_copies_are_their_own(busy, make):
    flow, x = busy
    wanted = flow.log_prob(x)
    other = make(flow)
    assert type(other) is ef.Glow and other.config == flow.config
    assert np.array_equal(other.log_prob(x), wanted)
    other.fit(x, steps=2)
    assert np.array_equal(flow.log_prob(x), wanted) and not np.array_equal(other.log_prob(x), wanted)


DAEMON = """
import threading, time, numpy as np, evenflow as ef
flow, x = ef.CouplingFlow(2, couplings=2), np.random.default_rng(0).standard_normal((500, 2))
threading.Thread(target=lambda: flow.fit(x, epochs=10**6, verbose=False), daemon=True).start()
time.sleep(0.5)
"""
SUBINTERPRETER = """
import importlib, sys
interpreters = importlib.import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
run = getattr(interpreters, "run_string")
told = "try: import evenflow\\nexcept ImportError as error: assert 'got a subinterpreter' in str(error)\\nelse: 1 / 0"
assert run(interpreters.create(), told) is None
"""


@pytest.mark.parametrize("program", [DAEMON, SUBINTERPRETER], ids=["daemon", "subinterpreter"])
def test_programs_end(program):
    """With a daemon thread inside a call; and where the core can't be loaded."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
