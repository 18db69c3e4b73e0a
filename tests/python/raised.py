"""Errors by their type and place: what they say is pinned in test_messages.py alone."""

import contextlib

import pytest


@contextlib.contextmanager
def raises(kind, **place):
    """`pytest.raises`, of an error with this argument, row or column."""
    with pytest.raises(kind) as error:
        yield error
    assert {name: getattr(error.value, name) for name in place} == place
    del error  # its traceback has this frame: the arrays of the call would wait for the garbage collector
