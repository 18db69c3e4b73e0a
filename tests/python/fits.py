"""A training with any setting by name."""

import dataclasses

import evenflow as ef

BY_NAME = {"batch_size", "optimizer", "lr", "schedule", "patience", "seed"}
BY_SETTINGS = {f.name for f in dataclasses.fields(ef.Settings)} - BY_NAME


def fit(flow, x, valid=None, **options):
    """flow.fit, with nothing held out unless the test says so."""
    settings = {name: options.pop(name) for name in BY_SETTINGS & options.keys()}
    return flow.fit(x, valid=valid, settings=ef.Settings(**settings), **options)
