"""The native operations as typed functions for NumPy, torch and CuPy arrays; each ``*_out`` writes into an array of the caller's."""

from fhrt.ops.face_crop import face_crop, face_crop_out
from fhrt.ops.neighbour_embedding import neighbour_embedding
from fhrt.ops.nv12 import Nv12
from fhrt.ops.pixel_shuffle import pixel_shuffle, pixel_shuffle_out
from fhrt.ops.ssim import ssim, ssim_out
from fhrt.ops.stn_sample import stn_sample, stn_sample_out
from fhrt.ops.threads import get_num_threads, set_num_threads, stay_alone
from fhrt.ops.to_image import to_image, to_image_out
from fhrt.ops.yuv import yuv_to_bgr

__all__ = [
    "Nv12",
    "face_crop",
    "face_crop_out",
    "get_num_threads",
    "neighbour_embedding",
    "pixel_shuffle",
    "pixel_shuffle_out",
    "set_num_threads",
    "ssim",
    "ssim_out",
    "stay_alone",
    "stn_sample",
    "stn_sample_out",
    "to_image",
    "to_image_out",
    "yuv_to_bgr",
]
