"""Batch norms that are not at rest, so that folding them is seen."""

from torch import nn


def shake_norms(model: nn.Module) -> None:
    """Random statistics and weights for every batch norm of ``model``, in place."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor, std=0.1)
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
