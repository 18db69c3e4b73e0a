"""evenflow through its C interface from any Python, without the package: numpy is optional, nothing is compiled.

    python evenflow_c.py LIBRARY MODEL ROWS.csv      log p of every row, nats, one a line
"""

import ctypes
import sys

FLOAT32, FLOAT64, UINT8 = 1, 2, 3


class Info(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("dtype", ctypes.c_int32), ("bits", ctypes.c_int32),
                ("dims", ctypes.c_int64), ("height", ctypes.c_int64), ("width", ctypes.c_int64),
                ("channels", ctypes.c_int64), ("classes", ctypes.c_int64)]


class Options(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("labels", ctypes.c_void_p), ("seed", ctypes.c_uint64),
                ("first", ctypes.c_int64), ("temperature", ctypes.c_double)]


class Failure(Exception):
    """A status that is not 0: (status, text)."""


class Model:
    """A model file and a context; buffers are anything that ctypes takes as a pointer."""

    def __init__(self, library: str, path: str, threads: int = 0):
        self.c = ctypes.CDLL(library)
        self.c.evenflow_last_error.restype = ctypes.c_char_p
        self.model, self.context, self.info = ctypes.c_void_p(), ctypes.c_void_p(), Info(ctypes.sizeof(Info))
        self._check(self.c.evenflow_load(path.encode(), ctypes.byref(self.model)))
        self._check(self.c.evenflow_context_create(threads, ctypes.byref(self.context)))
        self._check(self.c.evenflow_model_get_info(self.model, ctypes.byref(self.info)))

    def close(self) -> None:
        self.c.evenflow_context_free(self.context)
        self.c.evenflow_model_free(self.model)
        self.model = self.context = ctypes.c_void_p()

    def log_prob(self, dtype: int, x, n: int, out, options: "Options | None" = None) -> None:
        self.call("log_prob", dtype, x, n, options, out)

    def sample(self, dtype: int, n: int, x, options: "Options | None" = None) -> None:
        self._check(self.c.evenflow_sample(self.model, self.context, ctypes.c_int32(dtype), ctypes.c_int64(n),
                                           _options(options), x))

    def call(self, name: str, dtype: int, x, n: int, options: "Options | None", *out) -> None:
        """Any function of the form (model, context, dtype, in, n, options, out ...)."""
        function = getattr(self.c, "evenflow_" + name)
        self._check(function(self.model, self.context, ctypes.c_int32(dtype), x, ctypes.c_int64(n),
                             _options(options), *out))

    def _check(self, status: int) -> None:
        if status != 0:
            raise Failure(status, self.c.evenflow_last_error().decode())


def _options(options: "Options | None"):
    return None if options is None else ctypes.byref(options)


def read_rows(path: str, columns: int) -> "list[list[float]]":
    rows = []
    with open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                row = [float(cell) for cell in line.split(",")]
            except ValueError as error:
                sys.exit(f"{path}: line {number}: {error}")
            if len(row) != columns:
                sys.exit(f"{path}: line {number}: expected {columns} columns, got {len(row)}")
            rows.append(row)
    return rows


def main(library: str, path: str, csv: str) -> None:
    model = Model(library, path)
    rows = read_rows(csv, model.info.dims)
    values = [value for row in rows for value in row]
    out = (ctypes.c_double * len(rows))()
    model.log_prob(FLOAT32, (ctypes.c_float * len(values))(*values), len(rows), out)
    model.close()
    for value in out:
        print(repr(value))


if __name__ == "__main__":
    main(*sys.argv[1:])
