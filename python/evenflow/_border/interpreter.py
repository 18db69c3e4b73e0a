"""Imported first: refuses a subinterpreter, in which loading the compiled core would wait for ever."""

import importlib
import sys

_name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
try:
    _interpreters = importlib.import_module(_name)
except ImportError:  # a Python without any
    pass
else:
    if _interpreters.get_current() != _interpreters.get_main():
        raise ImportError("[evenflow] expected the main interpreter of Python, got a subinterpreter, of which the "
                          "compiled core knows nothing; use processes or threads")
