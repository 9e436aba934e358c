"""Training: a dataset folder in, a run folder out."""

from fcnseg.training.verb import TrainResult, train

__all__ = ["TrainResult", "train"]
