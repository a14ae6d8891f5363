"""Full-reference picture metrics: PSNR, SSIM, FSIM and identity similarity; how well faces are found; and how sure a figure is."""

from fhrt.metrics.bootstrap import confidence, resample
from fhrt.metrics.detection import Curve, Matches, average_precision, match, match_all, precision_recall, recall_at
from fhrt.metrics.fsim import fsim
from fhrt.metrics.full_reference import psnr, ssim
from fhrt.metrics.identity import Recognition

__all__ = [
    "Curve",
    "Matches",
    "Recognition",
    "average_precision",
    "confidence",
    "fsim",
    "match",
    "match_all",
    "precision_recall",
    "psnr",
    "recall_at",
    "resample",
    "ssim",
]
