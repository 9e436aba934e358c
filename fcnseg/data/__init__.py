"""A dataset folder -> samples: what it is, what is wrong with it, and batches to train on."""
