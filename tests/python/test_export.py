"""Files of latents, data and scores, written from Python; test_commands.py writes them by commands."""

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow._border.batch import Batch
from evenflow.cli import main
from evenflow.runs.export import decode_rows, encode_rows, write_samples
from evenflow.score import score_rows

CALLS = pytest.mark.parametrize("call", [encode_rows, decode_rows, score_rows])


@CALLS
def test_an_array_is_its_rows(table_model, table, tmp_path, monkeypatch, call):
    """The ending is in either case, and blocks change nothing."""
    monkeypatch.setattr("evenflow._border.files.ARRAY_VALUES", 60)
    rows = table_model.encode(table) if call is decode_rows else table
    for name, given in (("whole.NPY", rows), ("batches.npy", [Batch(rows[:150]), Batch(rows[150:])])):
        call(table_model, given, tmp_path / name)
    assert np.array_equal(np.load(tmp_path / "whole.NPY"), np.load(tmp_path / "batches.npy"))
    assert len(np.load(tmp_path / "batches.npy")) == len(table)


@CALLS
def test_a_value_is_named_by_its_row_of_all(table_model, table, tmp_path, call):
    table[155, 1] = np.nan
    with raises(ef.NumericError, row=155, column=1):
        call(table_model, [Batch(table[:150]), Batch(table[150:])], tmp_path / "x.npy")
    assert not list(tmp_path.iterdir())


@CALLS
def test_rows_that_are_none(table_model, table, tmp_path, call):
    for wrong in (3, "x.npy", [table, table], [(table, None)]):
        with raises(TypeError, argument="rows"):
            call(table_model, wrong, tmp_path / "x.npy")
    with raises(ef.ShapeError, argument="rows"):
        call(table_model, np.array(1.0), tmp_path / "x.npy")


def test_samples_have_names(table_model, tmp_path):
    write_samples(table_model, 3, tmp_path / "s.CSV")
    assert (tmp_path / "s.CSV").read_text().splitlines()[0] == "x0,x1,x2"
    assert ef.data.load(tmp_path / "s.CSV").train.shape == (3, 3)


def test_latents_of_either_case(table_model, table, tmp_path):
    encode_rows(table_model, table, tmp_path / "z.NPZ")
    with np.load(tmp_path / "z.NPZ") as file:
        assert np.array_equal(file["z"], table_model.encode(table))


def test_samples_of_images_are_read_again_as_levels(model, tmp_path, capsys):
    """What the error says of an array of floats, and what the folder of pictures is."""
    model.save(tmp_path / "model")
    path, floats, levels, out = (str(tmp_path / name) for name in ("model", "x.npy", "levels.npy", "s.csv"))
    assert main(["sample", path, "--n", "5", "--out", floats]) == 0
    for command in (["score", path, floats, "--out", out], ["encode", path, floats], ["eval", path, floats]):
        assert main(command) == 2
        assert "got float32 (5, 4, 4, 2); evenflow.to_uint8(x, bits) makes levels of floats" in capsys.readouterr().err
    np.save(levels, ef.to_uint8(np.load(floats), bits=8))
    assert main(["score", path, levels, "--out", out]) == 0
    np.testing.assert_allclose(np.loadtxt(out, skiprows=1), model.log_prob(np.load(levels)))
