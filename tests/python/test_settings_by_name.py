"""Calls told something that another library would understand: the error says what it is called here."""

import inspect
import re

import pytest

import evenflow as ef
from evenflow.models import MODELS
from evenflow._border.names import ELSEWHERE

OPTIMIZERS = [ef.Adam, ef.AdamW, ef.Adamax, ef.SGD, ef.RMSProp]


def meant(where, name, ours):
    return f"[{where}] unexpected argument {name!r}; did you mean {ours!r}?"


@pytest.mark.parametrize("call, error, text", [
    (lambda: ef.CouplingFlow(2, num_layers=4), TypeError, meant("CouplingFlow", "num_layers", "couplings")),
    (lambda: ef.CouplingFlow(2, transforms=4, hidden=()), TypeError, meant("CouplingFlow", "transforms", "couplings")),
    (lambda: ef.CouplingFlow(2, coupling="spline"), TypeError, meant("CouplingFlow", "coupling", "law")),
    (lambda: ef.CouplingFlow(2, prior="logistic"), TypeError, meant("CouplingFlow", "prior", "base")),
    (lambda: ef.CouplingFlow(2, tail_bound=3.0), TypeError, meant("CouplingFlow", "tail_bound", "bound")),
    (lambda: ef.CouplingFlow(features=2), TypeError, meant("CouplingFlow", "features", "shape")),
    (lambda: ef.CouplingFlow(2, batchnorm=True), TypeError, meant("CouplingFlow", "batchnorm", "batch_norm")),
    (lambda: ef.Glow((4, 4, 1), n_flows=4), TypeError, meant("Glow", "n_flows", "steps")),
    (lambda: ef.Glow((4, 4, 1), num_classes=4), TypeError, meant("Glow", "num_classes", "classes")),
    (lambda: ef.NICE(2, hidden_features=(4,)), TypeError, meant("NICE", "hidden_features", "hidden")),
    (lambda: ef.RealNVP(input_shape=(4, 4, 1)), TypeError, meant("RealNVP", "input_shape", "shape")),
    (lambda: ef.RealNVP((4, 4, 1), n_layers=4), TypeError, "[RealNVP] unexpected argument 'n_layers'"),
    (lambda: ef.CouplingFlow(2, xyz=1), TypeError, "[CouplingFlow] unexpected argument 'xyz'"),
    (lambda: ef.CouplingFlow(2, 4), TypeError, "positional argument"),
    (lambda: ef.CouplingFlow(2, hidden=64), TypeError, "for hidden, got 64; one layer is (64,)"),
    (lambda: ef.CouplingFlow((4, 4, 1)), TypeError, "[CouplingFlow] expected a whole number for the number of columns"),
    (lambda: ef.NICE(1), ef.ConfigError, "[NICE] expected the number of columns >= 2, got 1"),
    (lambda: ef.Glow((3, 32, 32), levels=2), ef.ShapeError, "divisible by 2^2, got 3 x 32 (shapes are (H, W, C))"),
    (lambda: ef.RealNVP((3, 32, 32)), ef.ShapeError, "got 3 x 32 (shapes are (H, W, C))"),
])
def test_the_error_says_what_it_is_called_here(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


@pytest.mark.parametrize("name, ours", [
    ("learning_rate", "lr"), ("num_epochs", "epochs"), ("validation_data", "valid"), ("weights", "sample_weight"),
    ("y", "label"), ("batchsize", "batch_size"), ("early_stopping", None)])
def test_fit(table_model, table, name, ours):
    with pytest.raises(TypeError) as error:
        table_model.fit(table, **{name: 1})
    assert str(error.value) == (meant("fit", name, ours) if ours else f"[fit] unexpected argument {name!r}")


def test_names_of_other_libraries_are_not_ours():
    calls = [*MODELS.values(), *OPTIMIZERS, ef.MovingAverage, ef.Schedule, ef.Flow.fit, ef.Flow.train_step]
    known = [set(inspect.signature(call).parameters) for call in calls]
    assert all(sum(name in ours for name in names) <= 1 for names in known for ours in ELSEWHERE.values())
    assert {name for ours in ELSEWHERE.values() for name in ours} <= set.union(*known)
    for call, names in zip(calls, known):  # a name of ours stands for no other of the same call
        assert not [name for name in set(ELSEWHERE) & names if set(ELSEWHERE[name]) & names], call
