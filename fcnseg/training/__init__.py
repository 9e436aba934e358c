"""Training: a network, a dataset and a run folder, from the first step to the last."""
