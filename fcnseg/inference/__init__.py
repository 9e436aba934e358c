"""Inference: frames in, predictions out."""
