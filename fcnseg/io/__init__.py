"""The OpenCV layer: images, videos, cameras and windows. BGR exists nowhere else."""
