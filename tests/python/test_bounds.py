"""Columns within bounds: densities, samples, gradients, errors, files, and every way to name them."""

import copy
import json
import pickle

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow._border import bounds
from evenflow.cli import main
from plain import plain_table

PAIRS = [(0, None), (0, 1), (None, None), (None, 5)]
SMALL = dict(couplings=4, hidden=(16,), seed=2)


def rows(n, seed=0):
    """(n, 4) float64, within PAIRS: gamma, beta, normal, and five minus an exponential."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.gamma(2.0, 1.5, n), rng.beta(0.7, 2, n), rng.normal(10, 3, n),
                            5 - rng.exponential(2.0, n)])


def mapped(x, low, high):
    """(free columns, log of their derivative's product) by hand, in float64; low, high: of column 1."""
    above, below = x[:, 1] - low, high - x[:, 1]
    free = np.column_stack([np.log(x[:, 0]), np.log(above / below), x[:, 2], -np.log(5 - x[:, 3])])
    return free, np.log((high - low) / (x[:, 0] * above * below * (5 - x[:, 3])))


def moved(flow, x, **given):
    """An initialised flow whose nets are not what they begin as."""
    flow.init(x, **given)
    rng = np.random.default_rng(7)
    for name in sorted(flow.named_grads()):
        flow.named_parameters()[name][...] += 0.1 * rng.normal(size=flow.named_parameters()[name].shape)
    return flow


@pytest.fixture(scope="module")
def flow():
    return moved(plain_table(4, bounds=PAIRS, dtype="float64", **SMALL), rows(2000))


@pytest.mark.parametrize("make", [plain_table, ef.NICE], ids=["coupling_flow", "nice"])
@pytest.mark.parametrize("preprocess", ["none", "standardize", "whiten", "zca"])
def test_is_the_recipe_of_mapped_columns(make, preprocess):
    x = rows(500)
    x[:, 1] = 4 * x[:, 1] - 2
    free, slope = mapped(x, -2, 2)
    pairs = [PAIRS[0], (-2, 2), *PAIRS[2:]]
    settings = dict(SMALL, preprocess=preprocess, dtype="float64")
    plain = moved(make(4, **settings), free)
    bounded = moved(make(4, bounds=pairs, **settings), x)
    assert [*bounded.named_parameters()] == [*plain.named_parameters()]
    assert np.abs(bounded.log_prob(x) - (plain.log_prob(free) + slope)).max() < 1e-10
    assert np.abs(bounded.encode(x) - plain.encode(free)).max() < 1e-10
    drawn, other = bounded.sample(200, seed=3), plain.sample(200, seed=3)
    assert np.abs(mapped(drawn, -2, 2)[0] - other).max() < 1e-9


@pytest.mark.parametrize("column, value", [(0, 0.0), (1, 1.0), (1, -0.5), (3, 5.0)])
def test_a_value_on_or_outside_of_a_bound(column, value):
    x = rows(600)
    model = moved(plain_table(4, bounds=PAIRS, **SMALL), x)
    before, bad = model.params.copy(), x.copy()
    bad[431, column] = value
    for call in (model.log_prob, model.init):
        with pytest.raises(ef.NumericError):
            call(bad)
    for call in (lambda: model.fit(bad, epochs=1), lambda: model.fit(x, valid=bad, epochs=1)):
        with raises(ef.NumericError, argument="x", row=431, column=column):
            call()
    assert np.array_equal(model.params, before)


def test_rows_that_float32_rounds_to_a_bound():
    """The last float32 below 1001 is 6e-5 away: what is nearer is 1001."""
    x = np.random.default_rng(0).uniform(1000, 1001, (20000, 2))
    model = {dtype: plain_table(2, bounds=[(1000, 1001)] * 2, dtype=dtype, **SMALL) for dtype in ("float32", "float64")}
    with raises(ef.NumericError, argument="x", row=3069, column=0):
        model["float32"].fit(x, epochs=1)
    model["float64"].fit(x, epochs=1)
    x[:] = 1000.5
    x[7] = 1002
    with raises(ef.NumericError, argument="x", row=7, column=0):
        model["float32"].fit(x, epochs=1)


def test_files_copies_and_config(flow, tmp_path):
    x = rows(50, 4)
    path = tmp_path / "model.safetensors"
    flow.save(path)
    wanted = flow.log_prob(x)
    pairs = [[0.0, None], [0.0, 1.0], [None, None], [None, 5.0]]
    for other in (ef.load(path), copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert other.config == flow.config and other.config["bounds"] == pairs
        assert np.array_equal(other.log_prob(x), wanted)
    assert json.loads(json.dumps(flow.config)) == flow.config
    flow.config["bounds"][0][0] = 3.0
    assert flow.config["bounds"] == pairs
    assert "bounds=[[0.0, None]" in repr(flow)
    for free in (None, [(None, None)] * 4, [None] * 4):
        assert "bounds" not in plain_table(4, bounds=free).config
    assert plain_table(2, bounds=[None, (0, 1)]).config["bounds"] == [[None, None], [0.0, 1.0]]
    assert plain_table(2, bounds=np.array([[0, 1], [2, 3]])).config["bounds"] == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize("error, pairs", [
    (ef.ConfigError, [(0, 1)]), (ef.ConfigError, [(0, 1), (2, 2)]), (ef.ConfigError, [(0, 1e39), (0, 1)]),
    (ef.ConfigError, [(1, 1 + 1e-9), (0, 1)]), (ef.ConfigError, [(0, float("inf")), (0, 1)]),
    (TypeError, [(0, "1"), (0, 1)]), (TypeError, [(0, 1), 3]), (TypeError, [(0, 1, 2), (0, 1)]), (TypeError, "01")])
def test_settings_that_are_none(error, pairs):
    for make in (ef.CouplingFlow, ef.NICE):
        with pytest.raises(error):
            make(2, bounds=pairs)


# scikit-learn

@pytest.fixture(scope="module")
def estimator():
    sklearn = pytest.importorskip("evenflow.sklearn")
    return sklearn.FlowDensity(couplings=2, hidden=(8,), epochs=2, batch_size=64, bounds=PAIRS, random_state=0)


def test_sklearn_density(estimator):
    from sklearn.base import clone
    x = rows(400)
    density = clone(estimator).fit(x)
    assert density.get_params()["bounds"] is not None and density.flow_.config["bounds"][1] == [0.0, 1.0]
    new = rows(20, 1)
    new[3, 0], new[5, 1], new[9, 3], new[12, 1] = -1, 1, 7, 1 - 1e-12  # the last is 1 in float32
    scores = density.score_samples(new)
    assert np.flatnonzero(scores == -np.inf).tolist() == [3, 5, 9, 12]
    kept = np.isfinite(scores)
    assert np.array_equal(scores[kept], density.flow_.log_prob(new[kept]))
    x[17, 1], x[30, 0] = 1, 0
    with raises(ef.ConfigError, argument="X", row=17, column=1):
        clone(estimator).fit(x)


def test_sklearn_columns_by_number_and_name(estimator):
    from sklearn.base import clone
    pandas = pytest.importorskip("pandas")
    x = rows(200)
    frame = pandas.DataFrame(x, columns=["flux", "share", "t", "depth"])
    named = clone(estimator).set_params(bounds={"share": (0, 1), "flux": (0, None), 3: (None, 5)}).fit(frame)
    numbered = clone(estimator).set_params(bounds={0: (0, None), 1: (0, 1), 3: (None, 5)}).fit(x)
    assert named.flow_.config == numbered.flow_.config == clone(estimator).fit(x).flow_.config
    for data, key in ((frame, "flx"), (x, "flux"), (x, 4)):
        with raises(ef.ConfigError, argument="bounds"):
            clone(estimator).set_params(bounds={key: (0, 1)}).fit(data)


# The command line

@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV file of rows(), below names."""
    path = tmp_path_factory.mktemp("bounds") / "table.csv"
    np.savetxt(path, rows(600), delimiter=",", header="flux,share,t,depth", comments="", fmt="%.17g")
    return path


ENDS = ["--bounds", "share", "0", "1", "--bounds", "flux", "0", "none", "--bounds", "depth", "-1.5e2", "5"]
RUN = ["--quiet", "--epochs", "1", "--couplings", "2", "--hidden", "8"]


def test_command_line(table, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", str(table), "--out", str(run), *ENDS, *RUN]) == 0
    flow = ef.load(run / "model.safetensors")
    assert flow.config["bounds"] == [[0.0, None], [0.0, 1.0], [None, None], [-150.0, 5.0]]
    text = (run / "config.toml").read_text()
    assert 'bounds = [["share", 0.0, 1.0], ["flux", 0.0, "none"], ["depth", -150.0, 5.0]]' in text
    again = tmp_path / "again"
    assert main(["train", "--config", str(run / "config.toml"), "--out", str(again)]) == 0
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert main(["train", str(table), "--out", str(run), "--resume", *ENDS, *RUN, "--epochs", "2"]) == 0
    capsys.readouterr()
    assert main(["train", str(table), "--out", str(run), "--resume", "--bounds", "share", "0", "2", *RUN]) == 2
    assert "expected model --bounds = [[0.0, None], [0.0, 1.0]" in capsys.readouterr().err
    assert main(["sample", str(run), "--n", "500", "--out", str(tmp_path / "drawn.csv")]) == 0
    drawn = np.loadtxt(tmp_path / "drawn.csv", delimiter=",", skiprows=1)
    assert not bounds.outside(flow.config["bounds"], drawn).any()
    capsys.readouterr()
    assert main(["info", str(run)]) == 0
    assert "bounds=[[0.0, None], [0.0, 1.0], [None, None], [-150.0, 5.0]]" in capsys.readouterr().out
    for command in ("eval", "verify"):
        assert main([command, str(run), str(table)]) == 0


@pytest.mark.parametrize("ends, code, text", [
    (["share", "0", "0.5"], 2, "expected values between 0 and 0.5 for column share, got "),
    (["nothing", "0", "1"], 2, "expected columns out of flux, share, t, depth, got 'nothing'"),
    (["share", "0", "x"], 2, "with numbers or none, each column once, got"),
    (["share", "1", "0"], 2, "expected a lower bound below the upper one, got 1 and 0 for column 1"),
    (["share", "0", "1", "--bounds", "share", "0", "2"], 2, "each column once, got"),
    (["share", "0", "1", "--model", "glow"], 2, "glow is not a model of tables; choose --model couplingflow or nice"),
])
def test_command_line_errors(table, tmp_path, capsys, ends, code, text):
    assert main(["train", str(table), "--out", str(tmp_path / "run"), "--bounds", *ends, *RUN]) == code
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_command_line_names_rows_of_the_file(tmp_path, capsys):
    x = rows(600)
    x[[571, 17, 300], 1] = 1.5, 2.5, 3.5
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="flux,share,t,depth", comments="", fmt="%.17g")
    for seed in "012":  # of the split
        assert main(["train", str(tmp_path / "x.csv"), "--out", str(tmp_path / "run"), "--seed", seed,
                     "--bounds", "share", "0", "1", *RUN]) == 2
        assert ("[train] expected values between 0 and 1 for column share, got 2.5 for sample 17; 3 of 600 rows lie on "
                in capsys.readouterr().err)
