"""Exact rewrites of a trained network into one that computes the same with fewer operations."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fhrt.models.layers import FoldedUpsampleConv2d, UpsampleConv2d


def rewrite(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that computes the same: batch norms folded into the convolutions before them, nearest ×2 followed by a
    convolution done at the low resolution, and whatever the network's own ``fold()`` knows. Exact up to rounding, borders included.
    """
    model = copy.deepcopy(model).eval()
    fold = getattr(model, "fold", None)
    if fold is not None:
        fold()
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, UpsampleConv2d):
                setattr(module, name, FoldedUpsampleConv2d(child))
    return model


def _fold_batch_norms(layers: nn.Sequential) -> None:
    for index in reversed(range(1, len(layers))):
        norm, before = layers[index], layers[index - 1]
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        if isinstance(before, UpsampleConv2d):
            before.conv = fuse_conv_bn_eval(before.conv, norm)
        elif isinstance(before, (nn.Conv2d, nn.ConvTranspose2d)):
            layers[index - 1] = fuse_conv_bn_eval(before, norm, transpose=isinstance(before, nn.ConvTranspose2d))
        else:
            continue
        del layers[index]
