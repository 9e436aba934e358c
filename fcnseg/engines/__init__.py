"""Engines: arrays in, logits or labels out."""
