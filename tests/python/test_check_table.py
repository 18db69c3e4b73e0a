"""Tables that have no density: what is warned of, and what is not."""

import re
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
    """The text of fit's warning of a table, or None."""
    flow = plain_table(x.shape[1], couplings=1, hidden=(2,), context=int("context" in settings))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", ".*of the context is constant here")
        fit(flow, x, steps=0, **settings)
    assert len(found) <= 1
    for one in found:
        assert one.category is ef.DataWarning and one.filename == fits.__file__
    return str(found[0].message) if found else None


def normal(n, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((n, columns))


def test_columns_of_few_values_are_named():
    x = normal(400, 4)
    x[:, 1] = x[:, 1] > 0
    x[:, 3] = np.round(4 * x[:, 3]) / 4
    text = warned(x)
    assert re.search(r"\[fit\] .* few distinct values in columns 1 \(2 values, 1 apart\), 3 \(\d+ values, 0.25 apart\) "
                     r"\(add uniform noise", text)
    rng = np.random.default_rng(1)
    assert warned(x + rng.uniform(0, [0, 1, 0, 0.25], x.shape)) is None  # what the text and the docs advise


def test_a_value_that_many_rows_have_is_named():
    x = normal(400, 3)
    x[:40, 2] = -99
    text = warned(x)
    assert "one value many times in column 2 (-99 in 10 % of the rows) (leave these rows out" in text
    assert warned(x[40:]) is None


def test_rows_that_repeat_others_are_counted():
    x = normal(400, 3)
    text = warned(np.concatenate([x, x[:20]]))
    assert "5 % of the rows repeat others (leave them out)" in text
    assert warned(np.concatenate([x, x[:6]])) is None


def test_columns_that_follow_from_each_other_are_named():
    x = normal(400, 5)
    x[:, 3] = 20 + 2 * x[:, 0] - x[:, 2]
    text = warned(x)
    assert "columns 0, 2, 3 are linearly dependent" in text and "outliers" not in text
    assert warned(np.delete(x, 2, 1)) is None
    assert warned(x + 1e-4 * normal(400, 5, 1)) is None  # near is not the same
    shares = np.random.default_rng(0).dirichlet([2, 3, 4], 400)
    assert "columns 0, 1, 2 are linearly dependent" in warned(shares, context=x[:, :1])
    assert warned(shares[:, :2]) is None
    text = warned(x[:, :2], context=3 * x[:, 1:2])
    assert "column 1 is a linear function of the context" in text
    assert warned(1e15 * x[:6]) is None  # too few rows to tell
    assert "linearly dependent" in warned(1e15 * x)
    x = normal(400, 3)
    x[7] = 1e15  # one row far off is no dependence of columns
    assert warned(x) is None or "linearly" not in warned(x)


@pytest.mark.parametrize("shift", [0.0, 1e3, 1e4])
def test_dependence_is_told_up_to_the_rounding_of_columns(shift):
    x = normal(2000, 3)
    assert warned(x + shift) is None
    x[:, 2] = x[:, 0] + x[:, 1]
    assert "columns 0, 1, 2 are linearly dependent" in warned(x + shift)


def test_few_values_that_set_the_scale_are_told_of():
    x = normal(4000, 2)
    x[::500, 1] = -1e6
    text = warned(x)
    assert text == ("[fit] a few outliers dominate the standard deviation of column 1 (deviation 4e+04, half of the rows "
                    "within 1): leave their rows out, or clip or transform the column")
    assert "context column 0" in warned(normal(4000, 2, 1), context=x[:, 1:])
    assert warned(np.random.default_rng(0).standard_cauchy((4000, 2))) is None
    wide = np.column_stack([10.0 ** np.random.default_rng(0).uniform(-12, 12, 4000), x[:, 0]])
    assert "column 0 (deviation " in warned(wide)
    bounded = plain_table(2, couplings=1, hidden=(2,), bounds=[(0, None), None])
    bounded.fit(wide, steps=0)  # a logarithm is taken of it: a warning would be an error here


def test_what_is_found_of_two_kinds_is_two_warnings():
    x = normal(4000, 3)
    x[:, 2], x[::500, 1] = x[:, 0], 1e7
    with pytest.warns(ef.DataWarning) as told:
        plain_table(3, couplings=1, hidden=(2,)).fit(x, steps=0)
    assert ["linearly dependent" in str(one.message) for one in told] == [True, False]


def test_many_columns_are_not_all_named():
    x = np.round(normal(400, 30))
    text = warned(x)
    assert " 3 (" in text and " 4 (" not in text and " and 26 more (add" in text


@pytest.mark.parametrize("n", [2, 10, 100, 1000, 10_000])
def test_continuous_columns_and_mildly_rounded_ones_are_silent(n):
    rng = np.random.default_rng(n)
    x = normal(n, 2, n)
    tables = [x, np.exp(3 * x), rng.random((n, 2)), rng.standard_cauchy((n, 2)), 1000 + x, x @ [[1, 1], [0, 0.01]]]
    if n > 2:  # of two rows a rounded column may be constant
        tables += [x.round(3), x.round(2)]
    for table in tables:
        assert warned(table.astype(np.float32)) is None


def test_rounded_rows_that_agree_by_chance_are_no_copies():
    x = normal(20_000, 2).round(2)
    assert len(x) - len(np.unique(x, axis=0)) > 0.02 * len(x)
    assert warned(x) is None


def test_a_context_may_have_few_values_and_tells_rows_apart():
    x, flag = normal(400, 2), np.arange(400)[:, None] % 2.0
    assert warned(x, context=flag) is None
    twice = np.repeat(x, 2, axis=0)
    assert warned(twice, context=np.arange(800)[:, None] % 2.0) is None
    assert "50 % of the rows repeat others" in warned(twice, context=np.zeros((800, 1)) + 1)


def test_rows_of_weight_zero_are_not_looked_at():
    x = normal(400, 2)
    both, w = np.concatenate([x, x[:60]]), np.repeat([1.0, 0.0], [400, 60])
    assert warned(both, sample_weight=w) is None
    assert "10 % of the rows repeat others" in warned(both, sample_weight=w + 1e-3)
    x[::2] = np.round(x[::2])
    assert "one value many times in columns 0" in warned(x, sample_weight=1 + np.arange(400) % 2)
    assert warned(x, sample_weight=np.arange(400) % 2) is None
    many, w = normal(200_000, 2), np.arange(200_000) % 2.0
    many[::2, 0] = 0
    assert warned(many, sample_weight=w, init_batch=500) is None and "column 0 (0 in" in warned(many, init_batch=500)


def test_of_many_rows_a_sample_is_looked_at(tmp_path, monkeypatch):
    x = normal(200_000, 2).astype(np.float32)
    x[:, 0] = np.round(x[:, 0])
    assert re.search(r"column 0 \(\d+ values, 1 apart\)", warned(x))
    monkeypatch.setattr("evenflow._border.rows.RESIDENT_BYTES", 1000)
    x[:2000:20, 1] = np.nan  # of a file, which training would find
    np.save(tmp_path / "x.npy", x)
    assert re.search(r"column 0 \(\d+ values, 1 apart\)",
                     warned(read_npy(tmp_path / "x.npy").train, init_batch=5))


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
    assert ef.data.check_table(x) == []
    x[:, 1] = x[:, 1] > 0
    assert "few distinct values in column 'b' (2 values" in ef.data.check_table(x, names=["a", "b"])[0]
    assert "0 is a linear function of the context" in ef.data.check_table(x[:, :1], x[:, :1])[0]
    for wrong, error in ((x[0], ef.ShapeError), ("x", TypeError)):
        with raises(error, argument="x"):
            ef.data.check_table(wrong)


def test_the_command_line_tells_once_with_the_columns_names(tmp_path, capsys):
    x = normal(300, 2)
    x[:, 1] = x[:, 1] > 0
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="size,sex", comments="")
    args = ["train", str(tmp_path / "x.csv"), "--out", str(tmp_path / "run"), "--steps", "1", "--hidden", "2",
            "--quiet"]
    assert main(args) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "warning: [train]" in line]
    assert len(told) == 1
    assert re.match(r"evenflow: warning: \[train\] .* column 'sex' \(2 values, 1 apart\)", told[0])
