"""A flow for tables with the simplest parts: what a test doesn't set doesn't matter to it."""

import evenflow as ef

PLAIN = dict(law="affine", net="mlp", permutation="none", base="gaussian", preprocess="standardize")


def plain_table(columns, **settings):
    return ef.CouplingFlow(columns, **{**PLAIN, **settings})
