"""The native operations as typed functions for NumPy and torch arrays."""

from fhrt.ops.face_crop import face_crop
from fhrt.ops.pixel_shuffle import pixel_shuffle
from fhrt.ops.ssim import ssim
from fhrt.ops.stn_sample import stn_sample
from fhrt.ops.threads import get_num_threads, set_num_threads
from fhrt.ops.to_image import to_image

__all__ = ["face_crop", "get_num_threads", "pixel_shuffle", "set_num_threads", "ssim", "stn_sample", "to_image"]
