"""A small network of our own; also the shortest example of a backbone's file."""

from __future__ import annotations

from torch import nn

from fcnseg.models.backbones import BackboneSpec


def tiny_network() -> nn.Module:
    """Five plain stages, quick on two cores: for tests and for synthetic data."""
    row: list[nn.Module] = []
    channels = 3
    for index, out in enumerate((16, 24, 32, 48, 64)):
        # 4x4 with stride 2 and padding 1 is centred between pixels, as a 2x2 pool is.
        layers = [nn.Conv2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        if index:
            layers += [nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        row.append(nn.Sequential(*layers))
        channels = out
    network = nn.Sequential(*row)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


BACKBONES = {
    "tiny": BackboneSpec(
        model=tiny_network, row=lambda model: list(model.children()), alignment="centre"
    )
}
