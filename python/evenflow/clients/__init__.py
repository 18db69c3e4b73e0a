"""Flows inside other packages: samplers and inference that take a density of their user's.

`nessai` is for nessai. Each module needs its package, which an extra of the same name brings.
"""
