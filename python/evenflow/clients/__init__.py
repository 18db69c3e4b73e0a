"""Flows inside other packages: the samplers nessai, aspire and pocoMC, and sbi.

Each module needs its package, which an extra of the same name installs.
"""
