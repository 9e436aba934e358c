import pytest
import torch
from torch import nn

from fcnseg.fcn.ladder import FCN, ModelSpec
from fcnseg.runtime.folding import fold_batch_norms


def stirred(network: nn.Module) -> nn.Module:
    """Batch norms with statistics that do something."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


@pytest.mark.parametrize("fuse", ["score", "feature", "concat"])
def test_the_answers_stay_and_the_norms_go(fuse):
    network = stirred(FCN(ModelSpec(backbone="tiny", num_classes=3, width=8, fuse=fuse)))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = network(images)
        fold_batch_norms(network, torch.zeros(1, 3, 64, 64))
        after = network(images)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_a_norm_that_follows_something_else_stays():
    network = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)))
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before = network(images)
        fold_batch_norms(network, images)
        torch.testing.assert_close(network(images), before)
    assert isinstance(network[2], nn.BatchNorm2d)
