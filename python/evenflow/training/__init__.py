"""Training by maximum likelihood: the loop, its settings, its batches."""
