"""Holds libevenflow_cuda.so, which evenflow loads for device="cuda"; there is nothing to import."""
