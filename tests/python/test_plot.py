"""Pictures: what can't be drawn, or has no place, is a typed error; test_cli.py and test_commands.py draw them."""

import pickle
import sys

import numpy as np
import pytest

import evenflow as ef
from evenflow import plot


def test_a_learning_curve(tmp_path):
    pytest.importorskip("matplotlib")
    records = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "valid_loss": 1.5}]
    figure = plot.learning_curve(records, tmp_path / "c.PNG")
    assert [line.get_xydata().tolist() for line in figure.axes[0].lines] == [[[1, 2], [2, 1]], [[2, 1.5]]]
    assert (tmp_path / "c.PNG").read_bytes().startswith(b"\x89PNG")
    for other in (3, [], [{}]):
        with pytest.raises(ef.ConfigError):
            plot.learning_curve(other)


def test_what_is_drawn(tmp_path, monkeypatch, pictures):
    pytest.importorskip("matplotlib")
    canvas = plot.grid(pictures[:5], columns=3, scale=1)
    assert canvas.shape == (13, 17, 3)
    assert np.array_equal(canvas[7:13, 6:11], pictures[4]) and not canvas[7:, 12:].any()
    flow = ef.NICE((6, 5, 3), couplings=1, hidden=(4,))
    flow.init(pictures)
    sigma = flow.spectrum()
    assert np.allclose(sigma, np.sort(np.exp(-flow.named_parameters()["scaling.logs"]))[::-1])
    plot.spectrum(sigma, tmp_path / "s.png")
    plot.learning_curve([{"step": 4, "skipped": 4}], tmp_path / "c.png")  # every step failed; no warning
    for name in ("s.png", "c.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TypeError):
        plot.save_grid(pictures.astype(np.float32), tmp_path / "x.png")
    with pytest.raises(ef.ShapeError):
        plot.save_grid(pictures[..., [0, 1, 2, 0, 1]], tmp_path / "x.png")
    for module, call in (("PIL.Image", lambda: plot.save_grid(pictures, tmp_path / "x.png")),
                         ("matplotlib.figure", lambda: plot.spectrum(sigma, tmp_path / "x.png"))):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ef.MissingExtra):
            call()


def test_marginals(tmp_path, table_model, table):
    pytest.importorskip("matplotlib")
    figure = ef.plot.marginals(table_model, table, tmp_path / "m.png", n=50)
    assert len(figure.axes) == 6 and (tmp_path / "m.png").stat().st_size > 1000
    assert pickle.loads(pickle.dumps(figure))._repr_png_().startswith(b"\x89PNG")  # a notebook asks for it
    with pytest.raises(ef.ShapeError) as told:
        ef.plot.marginals(table_model, table[:, :2])
    assert told.value.argument == "x"
