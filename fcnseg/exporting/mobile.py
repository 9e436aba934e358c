"""Mobile formats, LiteRT (TFLite) and ExecuTorch: fixed size, one image at a time.

A zip archive with the header and the class names is appended to the file, as usual for TFLite.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from fcnseg.engines.model_files import ATTACHED
from fcnseg.errors import CheckpointError, OptionError, reason
from fcnseg.exporting.graph import Complete, GraphOptions, needs_logits, quiet
from fcnseg.exporting.parity import example_images
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.progress import environment, without_native_messages

CLASS_NAMES = "labels.txt"
"""The attached file with one class per line, as TFLite's tools expect it."""


class _Named(nn.Module):
    """A complete graph that returns its outputs by name."""

    def __init__(self, complete: Complete) -> None:
        super().__init__()
        self.complete = complete  # "graph" is reserved by torch.fx

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images as in Complete -> its outputs by their names."""
        found = self.complete(images)
        outputs = found if isinstance(found, tuple) else (found,)
        return dict(zip(self.complete.names, outputs, strict=True))


def refuse_options(options: GraphOptions, kind: str) -> None:
    """OptionError for options that mobile formats do not support; kind: for the message."""
    if options.size is None:
        raise OptionError(
            f"{kind} files take images of one size, which was not given.",
            hint="add --size HEIGHT WIDTH: the size of the images that the phone will pass",
        )
    if options.precision != "f32":
        raise OptionError(
            f"{kind} files are written in f32; {options.precision} was requested.",
            hint="omit --precision",
        )
    if options.labels_only:
        raise needs_logits()


def _fixed_size_graph(checkpoint: Checkpoint, options: GraphOptions) -> tuple[Complete, Tensor]:
    """The graph, and example images for tracing."""
    complete = Complete(checkpoint.build(), checkpoint.preprocess, options).eval()
    return complete, example_images(options.size, checkpoint.preprocess.bands, options.layout)


def write_litert(checkpoint: Checkpoint, path: Path, options: GraphOptions) -> None:
    """Write a checkpoint as a .tflite file with its header, for images of `options.size`.

    options: checked by `refuse_options`. CheckpointError when it can't be converted.
    """
    complete, images = _fixed_size_graph(checkpoint, options)
    named = _Named(complete).eval()
    with environment(LITERT_TORCH_SHOW_PROGRESS="n"), quiet(), without_native_messages():
        try:
            import litert_torch

            litert_torch.convert(named, sample_kwargs={"images": images}).export(str(path))
        except OSError:
            raise
        except Exception as error:  # the converter's errors share no base class
            raise _not_converted("litert-torch", error) from error
    attach_header(path, checkpoint)


def write_executorch(checkpoint: Checkpoint, path: Path, options: GraphOptions) -> None:
    """Write a checkpoint as a .pte file with its header, for images of `options.size`.

    options: checked by `refuse_options`. CheckpointError when it can't be converted.
    """
    complete, images = _fixed_size_graph(checkpoint, options)
    with quiet(), without_native_messages():
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            program = torch.export.export(complete, (images,))
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            path.write_bytes(lowered.to_executorch().buffer)
        except OSError:
            raise
        except Exception as error:  # the converter's errors share no base class
            raise _not_converted("ExecuTorch", error) from error
    attach_header(path, checkpoint)


def attach_header(path: Path, checkpoint: Checkpoint) -> None:
    """Append a checkpoint's header and its class names to a file."""
    names = "".join(f"{name}\n" for name in checkpoint.classes.names)
    attach(path, {ATTACHED: checkpoint.header_json(), CLASS_NAMES: names})


def attach(path: Path, texts: dict[str, str]) -> None:
    """Append a zip archive to a file, where TFLite's tools look for associated files."""
    with zipfile.ZipFile(path, "a") as archive:  # not compressed: some readers need that
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text)


def _not_converted(converter: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{converter} can't convert this network: {reason(error)}.",
        hint="--format onnx, which runs on phones in ONNX Runtime",
    )
