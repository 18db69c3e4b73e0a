"""What is seen of the columns of a table, by fit, inspect and train: what is told of, and what is not."""

import json
import re
import shlex
import warnings

import numpy as np
import pytest
from raised import raises

import fits
from fits import fit
from plain import plain_table
import evenflow as ef
from evenflow.cli import main
from evenflow.data.numpy_files import read_npy


def warned(x, **settings):
    """What fit warns of a table, a line each."""
    flow = plain_table(x.shape[1], couplings=1, hidden=(2,), context=int("context" in settings),
                       bounds=settings.pop("bounds", None))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", ".*of the context is constant here")
        fit(flow, x, steps=0, **settings)
    for one in found:
        assert one.category is ef.DataWarning and one.filename == fits.__file__
    return "\n".join(str(one.message) for one in found)


def kinds(x, **options):
    """What the columns are, as inspect sees them."""
    return [column.kind for column in ef.data.inspect(x, **options).columns]


def normal(n, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((n, columns))


def test_columns_of_few_values_are_named():
    x = normal(400, 4)
    x[:, 1] = x[:, 1] > 0
    x[:, 3] = np.round(4 * x[:, 3]) / 4
    assert re.fullmatch(r"\[fit\] column 1 has 2 values, .* class as the context, .*\n\[fit\] column 3 has few values, "
                        r"0.25 apart, .*", warned(x))
    assert kinds(x) == ["real", "class", "real", "steps"]
    noise = np.random.default_rng(1).uniform([0, -0.5, 0, -0.125], [0, 0.5, 0, 0.125], x.shape)
    assert not warned(x + noise)  # what the text and the docs advise


def test_fractions_and_percentages_end_at_both_sides():
    x = np.random.default_rng(0).beta(0.5, 0.5, (4000, 5))
    x[:, 0], x[:, 1], x[:, 2] = x[:, 0].round(2), (100 * x[:, 1]).round(), (100 * x[:, 2]).round(1)
    x[:, 3], x[:, 4] = 100 * x[:, 3], normal(4000, 1)[:, 0]
    x[0, 3] = 100
    assert [text.partition("bounds=")[2].partition("}")[0] for text in ef.data.inspect(x).lines()] == [
        "{0: (-0.01, 1.01)", "{1: (-1, 101)", "{2: (-0.1, 100.1)", "{3: (0, 100)"]


def test_a_value_that_many_rows_have_is_named():
    x = normal(400, 3)
    x[:40, 2] = -99
    assert "column 2 has -99 in 10 % of the rows, far from the others" in warned(x)
    x[:40, 2] = 0
    assert "column 2 has 0 in 10 % of the rows, so" in warned(x) and kinds(x)[2] == "peak"
    assert not warned(x[40:])


def test_rows_that_repeat_others_are_counted():
    x = normal(400, 3)
    text = warned(np.concatenate([x, x[:20]]))
    assert "5 % of the rows repeat others, so" in text
    assert not warned(np.concatenate([x, x[:6]]))


def test_columns_that_follow_from_each_other_are_named():
    x = normal(400, 5)
    x[:, 3] = 20 + 2 * x[:, 0] - x[:, 2]
    text = warned(x)
    assert "column 3 is a linear function of 0, 2, so" in text and "outliers" not in text
    assert not warned(np.delete(x, 2, 1))
    assert not warned(x + 1e-4 * normal(400, 5, 1))  # near is not the same
    shares = np.random.default_rng(0).dirichlet([2, 3, 4], 400)
    assert "column 2 is a linear function of 0, 1, so" in warned(shares, context=x[:, :1])
    assert "linear" not in warned(shares[:, :2])
    twins = np.column_stack([x[:, :2], x[:, 1], 2 * x[:, 0] + 1])
    assert kinds(twins) == ["real", "real", "copy", "copy"] and ef.data.inspect(twins).options() == "--drop 2 --drop 3"
    text = warned(x[:, :2], context=3 * x[:, 1:2])
    assert "column 1 is a linear function of the context, so" in text
    assert not warned(1e15 * x[:6])  # too few rows to tell
    assert "linear function" in warned(1e15 * x)
    x = normal(400, 3)
    x[7] = 1e15  # one row far off is no dependence of columns
    assert "linear" not in warned(x)


@pytest.mark.parametrize("shift", [0.0, 1e3, 1e4])
def test_dependence_is_told_up_to_the_rounding_of_columns(shift):
    x = normal(2000, 3)
    assert not warned(x + shift)
    x[:, 2] = x[:, 0] + x[:, 1]
    assert "column 2 is a linear function of 0, 1, so" in warned(x + shift)


def test_few_values_that_set_the_scale_are_told_of():
    x = normal(4000, 2)
    x[::2000, 1] = -1e6, 1e6
    assert "column 1 has a few outliers, which dominate its deviation (2e+04, half of the rows within 1)" in warned(x)
    assert "context column 0 has a few outliers" in warned(normal(4000, 2, 1), context=x[:, 1:])
    assert "outliers" not in warned(np.random.default_rng(0).standard_cauchy((4000, 2)))
    wide = np.column_stack([10.0 ** np.random.default_rng(0).uniform(-12, 12, 4000), x[:, 0]])
    assert "bounds={0: (0, None)}" in warned(wide)
    bounded = plain_table(2, couplings=1, hidden=(2,), bounds={0: (0, None)})
    bounded.fit(wide, steps=0)  # a logarithm is taken of it: a warning would be an error here


def test_what_is_found_of_two_kinds_is_two_warnings():
    x = normal(4000, 3)
    x[:, 2], x[::500, 1] = x[:, 0], 1e7
    assert ["linear function" in line for line in warned(x).splitlines()] == [False, True]


def test_many_columns_are_not_all_named():
    x = np.round(normal(400, 30))
    text = warned(x)
    assert len(text.splitlines()) == 13 and "18 more lines" in text
    assert len(ef.data.inspect(x).lines()) == 30


@pytest.mark.parametrize("n", [2, 10, 100, 1000, 10_000])
def test_continuous_columns_and_mildly_rounded_ones_are_silent(n):
    rng = np.random.default_rng(n)
    x = normal(n, 2, n)
    tables = [x, 1000 + x, x @ [[1, 1], [0, 0.01]], rng.gamma(20, size=(n, 2)), np.exp(0.3 * x), 5 + rng.random((n, 2)),
              rng.beta(9, 9, (n, 2)), rng.logistic(size=(n, 2))]
    if n > 2:  # of two rows a rounded column may be constant
        tables += [x.round(3), x.round(2), ef.data.two_moons(n, seed=n)[0], ef.data.rings(n, seed=n)[0]]
    for table in tables:
        assert not warned(table.astype(np.float32))


def test_rounded_rows_that_agree_by_chance_are_no_copies():
    x = normal(20_000, 2).round(2)
    assert len(x) - len(np.unique(x, axis=0)) > 0.02 * len(x)
    assert not warned(x)


def test_a_context_may_have_few_values_and_tells_rows_apart():
    x, flag = normal(400, 2), np.arange(400)[:, None] % 2.0
    assert not warned(x, context=flag)
    twice = np.repeat(x, 2, axis=0)
    assert not warned(twice, context=np.arange(800)[:, None] % 2.0)
    assert "50 % of the rows repeat others" in warned(twice, context=np.zeros((800, 1)) + 1)


def test_rows_of_weight_zero_are_not_looked_at():
    x = normal(400, 2)
    both, w = np.concatenate([x, x[:60]]), np.repeat([1.0, 0.0], [400, 60])
    assert not warned(both, sample_weight=w)
    assert "10 % of the rows repeat others" in warned(both, sample_weight=w + 1e-3)
    x[::2] = np.round(x[::2])
    assert "column 0 has " in warned(x, sample_weight=1 + np.arange(400) % 2)
    assert not warned(x, sample_weight=np.arange(400) % 2)
    many, w = normal(200_000, 2), np.arange(200_000) % 2.0
    many[::2, 0] = 0
    assert not warned(many, sample_weight=w, init_batch=500) and "column 0 has 0 in" in warned(many, init_batch=500)


def test_of_many_rows_a_sample_is_looked_at(tmp_path, monkeypatch):
    x = normal(200_000, 2).astype(np.float32)
    x[:, 0] = np.round(x[:, 0])
    assert "column 0 has few values, 1 apart" in warned(x)
    monkeypatch.setattr("evenflow._border.rows.RESIDENT_BYTES", 1000)
    x[:2000:20, 1] = np.nan  # of a file, which training would find
    np.save(tmp_path / "x.npy", x)
    assert "column 0 has few values, 1 apart" in warned(read_npy(tmp_path / "x.npy").train, init_batch=5)


def test_images_are_not_looked_at(pictures):
    ef.NICE((6, 5, 3), couplings=1, hidden=(2,)).fit(np.repeat(pictures, 2, axis=0), steps=0)


def test_a_warning_made_an_error_leaves_the_model_as_it_was():
    x = np.round(normal(400, 2))
    flow = plain_table(2, couplings=1, hidden=(2,))
    before = flow.params.copy()
    with pytest.raises(ef.DataWarning):  # as pytest is set up here
        flow.fit(x, epochs=1)
    assert not flow.initialized and np.array_equal(flow.params, before)


def test_the_estimator_warns():
    pytest.importorskip("sklearn")
    from evenflow.sklearn import FlowDensity
    x = normal(300, 2)
    x[:, 1] = np.round(x[:, 1])
    with pytest.warns(ef.DataWarning):
        FlowDensity(couplings=1, hidden=(2,), epochs=1, random_state=0).fit(x)


def test_a_table_is_checked_without_a_flow():
    x = normal(400, 2)
    assert ef.data.inspect(x).lines() == []
    x[:, 1], x[:7, 0] = x[:, 1] > 0, np.nan
    seen = ef.data.inspect(x, names=["a", "b"])
    assert [column.kind for column in seen.columns] == ["missing", "class"] and seen.columns[0].missing == 7
    assert str(seen).splitlines()[1].split()[:3] == ["a", "missing", "7"]
    assert "0 is a linear function of the context" in ef.data.inspect(x[7:, :1], x[7:, :1]).lines()[0]
    for wrong, error in ((x[0], ef.ShapeError), ("x", TypeError)):
        with raises(error, argument="x"):
            ef.data.inspect(wrong)


def test_the_command_line_tells_once_with_the_columns_names(tmp_path, capsys):
    x = normal(300, 2)
    x[:, 1] = x[:, 1] > 0
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="size,sex", comments="")
    args = ["train", str(tmp_path / "x.csv"), "--out", str(tmp_path / "run"), "--steps", "1", "--hidden", "2",
            "--quiet"]
    assert main(args) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "warning: [train]" in line]
    assert len(told) == 1
    assert told[0].startswith("evenflow: warning: [train] column 'sex' has 2 values") and "--context sex" in told[0]


def catalogue(n, seed=0):
    """(columns by name, what each is)."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    flux = rng.lognormal(np.array([1, 2, 0, 0.5])[kind], np.array([0.6, 0.9, 0.5, 0.8])[kind])
    columns = {
        "flux": flux, "angle": np.degrees(rng.vonmises(np.radians([60, 100, 140, 0])[kind], 0.7)) % 360,
        "detections": rng.poisson(1 + 1.5 * np.sqrt(flux)),
        "fraction": rng.beta(np.array([0.7, 2, 1, 0.5])[kind], np.array([1.5, 1, 0.6, 0.5])[kind]).round(3),
        "magnitude": np.where(rng.random(n) < 0.03, np.nan, 20 - 1.1 * np.log(flux) + 0.3 * rng.standard_normal(n)),
        "kind": kind, "speed": rng.standard_t(1.7, n) * (3 + kind) + 10 * kind, "field": np.full(n, 7.0)}
    return columns, ["positive", "angle", "count", "fraction", "missing", "class", "long tails", "constant"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_kind_of_column_is_recognised(seed):
    columns, wanted = catalogue(20_000, seed)
    assert kinds(np.column_stack(list(columns.values()))) == wanted


@pytest.mark.parametrize("values, kind", [
    (lambda rng: rng.random(1000), "fraction"), (lambda rng: rng.uniform(-np.pi, np.pi, 1000), "angle"),
    (lambda rng: rng.uniform(-180, 180, 100), "angle"),
    (lambda rng: rng.uniform(0, np.pi, 1000), "angle"), (lambda rng: rng.exponential(size=100), "positive"),
    (lambda rng: np.where(rng.random(1000) < 0.02, 999, rng.normal(size=1000)), "mark"),
    (lambda rng: np.where(rng.random(1000) < 0.02, 0, rng.normal(20, 1, 1000)), "mark"),
    (lambda rng: np.where(rng.random(1000) < 0.02, -1, rng.exponential(size=1000)), "mark, positive"),
    (lambda rng: rng.normal(0, 5, 1000).clip(-10, 10), "peak"), (lambda rng: rng.poisson(0.2, 1000), "count"),
    (lambda rng: rng.normal(170, 10, 1000).round(), "steps")])
def test_kinds_of_single_columns(values, kind):
    assert kinds(values(np.random.default_rng(0))[:, None]) == [kind]


def test_bounds_that_a_flow_has_are_not_proposed():
    x = np.exp(normal(400, 2))
    assert "column 0 is positive with a long tail: bounds={0: (0, None)}" in warned(x)
    assert warned(x, bounds=[(0, None), None]).count("column") == 1


def write_csv(path, columns):
    np.savetxt(path, np.column_stack(list(columns.values())), fmt="%.9g", delimiter=",", header=",".join(columns),
               comments="")
    text = path.read_text().replace("nan", "")
    path.write_text(text)


@pytest.mark.parametrize("n, options", [(1500, ["--epochs", "1", "--couplings", "2", "--hidden", "8"]),
                                        pytest.param(20_000, [], marks=pytest.mark.slow)])
def test_a_raw_catalogue_is_trained_on_after_one_edit(tmp_path, monkeypatch, capsys, n, options):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    columns, _ = catalogue(n)
    write_csv(tmp_path / "catalogue.csv", columns)
    assert main(["train", "catalogue.csv", "--quiet"]) == 2 and "in column 'magnitude'" in capsys.readouterr().err
    assert main(["inspect", "catalogue.csv"]) == 0
    proposed = capsys.readouterr().out.splitlines()[-1].split()
    assert proposed[:3] == ["evenflow", "train", "catalogue.csv"]
    assert main([*proposed[1:], *options, "--quiet", "--out", "run"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "curve.png" not in line and "samples.png" not in line]
    assert [line for line in told if "warning: [train]" in line and "'speed' has long tails" not in line] == []
    assert main(["sample", "run", "--given", "catalogue.csv", "--n", "2", "--out", "drawn.csv"]) == 0
    drawn = ef.data.load("drawn.csv")
    flux, angle, detections, fraction = drawn.train[:, :4].T
    assert drawn.columns[:4] == ["flux", "angle", "detections", "fraction"] and len(drawn.train) == 2 * n
    assert (flux > 0).all() and (angle >= 0).all() and (angle <= 360).all()
    assert (detections >= 0).all() and (detections % 1 == 0).all()
    assert (fraction >= 0).all() and (fraction <= 1).all() and np.allclose(fraction, fraction.round(3), atol=1e-7)
    if not options:
        result = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
        assert all(outside <= 0.005 and distance < 0.05 for outside, distance in result["marginals"].values())
        assert (tmp_path / "run" / "samples.png").exists() or result["notes"]
    assert main(["eval", "run"]) == 0


def test_samples_that_differ_from_the_data_are_told_of(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).uniform([3, 0], [7, 1], (2000, 2))
    np.savetxt("x.csv", x, delimiter=",", header="width,share", comments="")
    short = ["--epochs", "6", "--couplings", "1", "--hidden", "2", "--quiet", "--out"]
    assert main(["train", "x.csv", "--steps", "9", *short, "hasty"]) == 0
    assert re.search(r"samples of column 'width' differ .*; train for longer", capsys.readouterr().err)
    assert main(["train", "x.csv", *short, "a"]) == 0
    told = capsys.readouterr().err
    assert "samples of column 'width' differ" in told and "--bounds width LOW HIGH" in told
    assert re.search(r"samples of column 'share' differ .*; --bounds share 0 1", told)
    assert main(["train", "x.csv", "--bounds", "width", "3", "7", "--bounds", "share", "0", "1", *short, "b"]) == 0
    assert "--bounds" not in capsys.readouterr().err


def test_omitted_rows_and_noise_are_the_same_whenever_a_file_is_read(tmp_path):
    pytest.importorskip("pandas")
    (tmp_path / "x.csv").write_text("a,b,c\n1,0.5,x\n,1,x\n-99,1.5,x\n2,inf,x\n3,2,x\n")
    options = {"drop": ["c"], "omit": [("a", "missing"), ("a", -99), ("b", "missing")], "noise": [("b", 0.5)]}
    data = ef.data.load(tmp_path / "x.csv", **options)
    assert data.columns == ["a", "b"] and data.train[:, 0].tolist() == [1, 3]
    assert (abs(data.train[:, 1] - [0.5, 2]) <= 0.25).all() and (data.train[:, 1] != [0.5, 2]).all()
    assert np.array_equal(ef.data.load(tmp_path / "x.csv", **options).train, data.train)
    for wrong in ({"drop": ["d"]}, {**options, "noise": [("b", 2)]}, {**options, "omit": [("c", 1)]}):
        with raises(ef.ConfigError):
            ef.data.load(tmp_path / "x.csv", **wrong)
    with raises(TypeError):
        ef.data.load(tmp_path / "x.csv", omit="a")


def test_all_values_that_are_not_finite_are_counted():
    x = normal(400, 3)
    x[3:53, 1], x[7, 2] = np.nan, np.inf
    with raises(ef.NumericError, argument="x", row=3, column=1) as error:
        plain_table(3, couplings=1, hidden=(2,)).fit(x, steps=0)
    assert "50 in column 1, 1 in column 2" in str(error.value)


def test_columns_of_a_frame_that_are_no_numbers_are_named():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": normal(300, 1)[:, 0], "kind": ["b", "a", None] * 100, "good": [True, False] * 150})
    seen = ef.data.inspect(frame)
    assert [column.kind for column in seen.columns] == ["real", "text", "text"]
    assert "column 'kind' has text (a, b): leave it out, or write numbers in its place" in seen.lines()


def test_folds_warn_once_where_filters_change_in_between():
    x = np.exp(normal(300, 1))
    with warnings.catch_warnings(record=True) as found:
        warnings.resetwarnings()
        for fold in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
            plain_table(1, couplings=1, hidden=(2,)).fit(np.delete(x, slice(100 * fold, 100 * fold + 100), 0), steps=0)
    assert [str(one.message) for one in found] == ["[fit] column 0 is positive with a long tail: bounds={0: (0, None)}"]


def test_files_are_inspected_as_they_are(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    share, rng = np.random.default_rng(0).random(300), np.random.default_rng(1)
    (tmp_path / "x.csv").write_text("share,my class\n" + "".join(f"{one:.9g},{rng.choice(['a', 'b'])}\n" for one in share))
    np.save("x.npy", np.column_stack([share, share > 0.5]))
    assert main(["inspect", "x.csv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kinds"] == {"share": "fraction", "my class": "text"} and found["rows"] == 300
    assert found["command"] == "evenflow train x.csv --bounds share 0 1 --drop 'my class'"
    table = (f"{one:.9g},7,{rng.choice(['a', 'b'])},{rng.integers(2)},{rng.integers(3)}\n" for one in share)
    (tmp_path / "y.csv").write_text("share,epoch,my class,sex,kind\n" + "".join(table))
    assert main(["inspect", "y.csv", "--json"]) == 0
    proposed = shlex.split(json.loads(capsys.readouterr().out)["command"])
    assert proposed.count("--drop") == proposed.count("--context") == 2
    assert main([*proposed[1:], "--epochs", "1", "--quiet", "--out", "run"]) == 0
    config = (tmp_path / "run" / "config.toml").read_text().splitlines()
    assert {'drop = ["epoch", "my class"]', 'context = ["sex", "kind"]'} <= set(config)
    capsys.readouterr()
    assert main(["inspect", "x.npy"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "evenflow train x.npy --bounds 0 0 1"
    for name in ("digits", "nothing.csv"):
        assert main(["inspect", name]) == 2
