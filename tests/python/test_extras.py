"""Packages that only some functions need: missing, too old, or broken."""

import re
import subprocess
import sys

import pytest

import evenflow as ef
from evenflow._border.extras import need


@pytest.mark.parametrize("lacks, bridge, wanted", [
    ("sklearn.utils.validation.validate_data", "sklearn", "scikit-learn 1.6"),
    ("torch.library.custom_op", "torch", "torch 2.4")])
def test_packages_that_are_too_old(lacks, bridge, wanted):
    module, name = lacks.rsplit(".", 1)
    pytest.importorskip(module)
    code = f"import {module}; del {lacks}; import evenflow.{bridge}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search(rf"MissingExtra: \[evenflow.{bridge}\] expected {wanted} or newer, got \d", done.stderr)


def test_packages_that_do_not_load(tmp_path, monkeypatch):
    """Whatever they raise: protobuf's generated code, of another version, raises TypeError."""
    (tmp_path / "unloadable.py").write_text("raise TypeError('made for another version')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ef.MissingExtra):
        need("here", "unloadable", "package", "extra")


def test_missing_extra():
    with pytest.raises(ImportError) as error:
        need("here", "no_such_module", "No", "no")
    assert isinstance(error.value, ef.MissingExtra) and isinstance(error.value, ef.ConfigError)
    assert error.value.name == "no_such_module"
