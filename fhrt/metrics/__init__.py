"""Full-reference picture metrics: PSNR and SSIM."""

from fhrt.metrics.full_reference import psnr, ssim

__all__ = ["psnr", "ssim"]
