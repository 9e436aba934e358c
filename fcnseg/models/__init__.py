"""Networks: START HERE in fcn.py.

    fcn.py         the network, whole: encoder taps, scores, upsampling, skips
    networks.py    the table of backbones; makes networks of specs
    spec.py        its shape and its preprocessing as plain values
    backbones/     the encoder: a classifier's network cut into stages; a file for each family
    checkpoint.py  the file a trained network is kept in, and which one is meant by -m
    weights.py     other weights files and downloads
    zoo/           published networks, and those that come with fcnseg

Nothing here knows of folders of images, videos or terminals. spec.py, checkpoint.py and weights.py
import torch only where there are weights: exported files are run without it.
"""
