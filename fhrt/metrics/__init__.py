"""Full-reference picture metrics: PSNR, SSIM, FSIM and identity similarity; and how sure a mean is."""

from fhrt.metrics.bootstrap import confidence
from fhrt.metrics.fsim import fsim
from fhrt.metrics.full_reference import psnr, ssim
from fhrt.metrics.identity import Recognition

__all__ = ["Recognition", "confidence", "fsim", "psnr", "ssim"]
