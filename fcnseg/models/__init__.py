"""Networks: START HERE in fcn.py.

    fcn.py         the complete network: encoder features, scores, upsampling, skip connections
    networks.py    the table of backbones; builds networks from specs
    spec.py        a network's architecture and preprocessing as plain values
    backbones/     the encoder: a classifier split into stages; one file per family
    checkpoint.py  the file format of trained networks; resolves -m to a file
    weights.py     other weights files and downloads
    zoo/           published networks, and those that come with fcnseg

Nothing here depends on image folders, videos or terminals. spec.py, checkpoint.py and weights.py
import torch only where they handle tensors: exported files run without torch.
"""
