"""Full-reference picture metrics: PSNR, SSIM and FSIM; and how sure a mean is."""

from fhrt.metrics.bootstrap import confidence
from fhrt.metrics.fsim import fsim
from fhrt.metrics.full_reference import psnr, ssim

__all__ = ["confidence", "fsim", "psnr", "ssim"]
