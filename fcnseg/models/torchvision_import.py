"""The one door to torchvision: imports it, also beside a torch it was not built for.

PyPI's torchvision wheel for x86 Linux is a CUDA build; beside a CPU torch its compiled
operators do not load and `import torchvision` raises "operator torchvision::nms does not
exist" (pytorch/vision issue 9085). None of what fcnseg uses needs those operators, so
they are declared by name and the import is tried again. To be dropped when torchvision
imports without its operators.
"""

from __future__ import annotations

import sys

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # operators live as long as their library


def _declare_operators() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
    _declared.append(library)


try:
    import torchvision  # type: ignore[import-untyped]
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    _declare_operators()
    import torchvision

from torchvision import models, tv_tensors  # noqa: E402
from torchvision.transforms import v2  # type: ignore[import-untyped]  # noqa: E402

__all__ = ["models", "torchvision", "tv_tensors", "v2"]
