"""Constructors told something that another library would understand: the error says what it is called here."""

import inspect
import re

import pytest

import evenflow as ef
from evenflow.models import ELSEWHERE, MODELS


@pytest.mark.parametrize("call, error, text", [
    (lambda: ef.RealNVP(2, num_layers=4), TypeError,
     "[RealNVP] expected the name of a setting, got num_layers; nearest: couplings"),
    (lambda: ef.RealNVP(2, transforms=4, hidden=(4,)), TypeError, "got transforms; nearest: couplings"),
    (lambda: ef.Glow((4, 4, 1), n_flows=4), TypeError,
     "[Glow] expected the name of a setting, got n_flows; nearest: steps"),
    (lambda: ef.NICE(2, hidden_features=(4,)), TypeError,
     "[NICE] expected the name of a setting, got hidden_features; nearest: hidden"),
    (lambda: ef.RealNVP(features=2), TypeError, "got features; nearest: shape"),
    (lambda: ef.RealNVP(2, batchnorm=True), TypeError, "got batchnorm; nearest: batch_norm"),
    (lambda: ef.RealNVP(2, xyz=1), TypeError, "got xyz"),
    (lambda: ef.RealNVP(2, hidden=64), TypeError, "for hidden, got 64; one layer is (64,)"),
    (lambda: ef.RealNVP(1, context=3), ef.ShapeError,
     "[RealNVP] expected two columns at least, since a coupling splits them, got 1; append a column of independent "),
    (lambda: ef.NICE(1), ef.ShapeError, "[NICE] expected two columns at least"),
    (lambda: ef.Glow((3, 32, 32), levels=2), ef.ShapeError, "divisible by 2^2, got 3 x 32 (shapes are (H, W, C))"),
    (lambda: ef.RealNVP((3, 32, 32)), ef.ShapeError, "got 3 x 32 (shapes are (H, W, C))"),
])
def test_the_error_says_what_it_is_called_here(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_names_of_other_libraries_are_not_ours():
    settings = {name: set(inspect.signature(model).parameters) for name, model in MODELS.items()}
    assert set(settings["NICE"]) >= {"shape", "couplings", "hidden", "threads"}  # seen through what wraps constructors
    assert not set(ELSEWHERE) & set.union(*settings.values())
    assert {name for ours in ELSEWHERE.values() for name in ours} <= set.union(*settings.values())
