// The CUDA ops behind C functions that the tests call; compiled together with csrc's .cu files for the host shim.
#include "../../csrc/face_crop/face_crop_cuda.h"
#include "../../csrc/pixel_shuffle/pixel_shuffle_cuda.h"
#include "../../csrc/ssim/ssim_cuda.h"
#include "../../csrc/stn_sample/stn_sample_cuda.h"
#include "../../csrc/to_image/to_image_cuda.h"

using namespace fhrt;

namespace {

Strides strides(const int64_t* s) { return Strides{s[0], s[1], s[2], s[3]}; }

// Batch, channels, in_h, in_w, out_h, out_w, upsample, align_corners, border.
StnSample settings(const int64_t* s) {
  return StnSample{s[0], s[1], s[2], s[3], s[4], s[5], static_cast<int>(s[6]), s[7] != 0, s[8] != 0};
}

template <typename T>
void sample(const void* x, const int64_t* xs, const float* theta, void* out, int channels_last, const int64_t* s) {
  stn_sample_cuda(static_cast<const T*>(x), strides(xs), theta, static_cast<T*>(out), channels_last != 0, settings(s), nullptr);
}

template <typename T>
void backward(const void* grad, const int64_t* gs, const void* x, const int64_t* xs, const float* theta, float* partials, void* grad_x,
              float* grad_theta, const int64_t* s) {
  const StnSample p = settings(s);
  stn_sample_backward_x_cuda(static_cast<const T*>(grad), strides(gs), theta, static_cast<T*>(grad_x), p, nullptr);
  stn_sample_backward_theta_cuda(static_cast<const T*>(grad), strides(gs), static_cast<const T*>(x), strides(xs), theta, partials, grad_theta, p,
                                 nullptr);
}

// Batch, output channels, h, w, factor.
PixelShuffle shuffle_settings(const int64_t* s, const float* bias, float negative_slope) {
  return PixelShuffle{s[0], s[1], s[2], s[3], static_cast<int>(s[4]), bias, negative_slope};
}

template <typename T>
void shuffle_forward(const void* x, const int64_t* xs, void* out, const PixelShuffle& p) {
  pixel_shuffle_cuda(static_cast<const T*>(x), strides(xs), static_cast<T*>(out), p, nullptr);
}

template <typename T>
void shuffle_back(const void* grad, const int64_t* gs, const void* x, const int64_t* xs, void* grad_x, const PixelShuffle& p) {
  pixel_shuffle_backward_cuda(static_cast<const T*>(grad), strides(gs), static_cast<const T*>(x), strides(xs), static_cast<T*>(grad_x), p,
                              nullptr);
}

template <typename T>
void image(const void* x, const int64_t* xs, uint8_t* out, const ToImage& p) {
  to_image_cuda(static_cast<const T*>(x), strides(xs), out, p, nullptr);
}

// Batch, channels, h, w, window, same.
SsimCuda ssim_settings(const int64_t* s, const float* weights, float c1, float c2) {
  SsimCuda p{s[0], s[1], s[2], s[3], static_cast<int>(s[4]), {}, s[5] != 0, c1, c2};
  for (int k = 0; k < p.window; ++k) p.weights[k] = weights[k];
  return p;
}

template <typename T>
void ssim_both(const void* a, const int64_t* as, const void* b, const int64_t* bs, float* map, float* mean, float* partials, const float* upstream,
               int upstream_is_map, void* grad_a, const SsimCuda& p) {
  ssim_cuda(static_cast<const T*>(a), strides(as), static_cast<const T*>(b), strides(bs), map, mean, partials, p, nullptr);
  ssim_backward_cuda(static_cast<const T*>(a), strides(as), static_cast<const T*>(b), strides(bs), upstream, upstream_is_map != 0,
                     static_cast<T*>(grad_a), p, nullptr);
}

}  // namespace

extern "C" {

// Settings: count, out_h, out_w; then of the frame and of NV12's chroma (all 0 without): rows, columns, channels, bytes from row to row.
// Every channel has the same mean and std; to_rgb: the fields of YuvToRgb.
void face_crop(const uint8_t* frame, const uint8_t* chroma, const float* to_rgb, const float* transforms, void* out, int dtype, float mean, float std,
               const int64_t* s) {
  FaceCrop p{s[0], s[1], s[2], {s[3], s[4], s[5], s[6]}, {s[7], s[8], s[9], s[10]}, {}, {}, {}};
  if (chroma != nullptr) p.to_rgb = {to_rgb[0], to_rgb[1], to_rgb[2], to_rgb[3], to_rgb[4], to_rgb[5]};
  for (int c = 0; c < kMaxFrameChannels; ++c) p.mean[c] = mean, p.std[c] = std;
  if (dtype == 0) face_crop_cuda(frame, chroma, transforms, static_cast<float*>(out), p, nullptr);
  if (dtype == 1) face_crop_cuda(frame, chroma, transforms, static_cast<Half*>(out), p, nullptr);
  if (dtype == 2) face_crop_cuda(frame, chroma, transforms, static_cast<BFloat16*>(out), p, nullptr);
}

int64_t ssim_scratch(const int64_t* s) {
  const float none[kMaxSsimWindow] = {};
  return ssim_partials(ssim_settings(s, none, 0, 0));
}

void ssim(int dtype, const void* a, const int64_t* as, const void* b, const int64_t* bs, float* map, float* mean, float* partials,
          const float* upstream, int upstream_is_map, void* grad_a, const float* weights, float c1, float c2, const int64_t* s) {
  (dtype == 0 ? ssim_both<float> : dtype == 1 ? ssim_both<Half> : ssim_both<BFloat16>)(a, as, b, bs, map, mean, partials, upstream, upstream_is_map,
                                                                                      grad_a, ssim_settings(s, weights, c1, c2));
}

void pixel_shuffle(int dtype, const void* x, const int64_t* xs, void* out, const float* bias, float slope, const int64_t* s) {
  const auto p = shuffle_settings(s, bias, slope);
  (dtype == 0 ? shuffle_forward<float> : dtype == 1 ? shuffle_forward<Half> : shuffle_forward<BFloat16>)(x, xs, out, p);
}

void pixel_shuffle_backward(int dtype, const void* grad, const int64_t* gs, const void* x, const int64_t* xs, void* grad_x, const float* bias,
                            float slope, const int64_t* s) {
  const auto p = shuffle_settings(s, bias, slope);
  (dtype == 0 ? shuffle_back<float> : dtype == 1 ? shuffle_back<Half> : shuffle_back<BFloat16>)(grad, gs, x, xs, grad_x, p);
}

// Settings: batch, channels, h, w, factor.
void to_image(int dtype, const void* x, const int64_t* xs, uint8_t* out, float low, float high, const int64_t* s) {
  const ToImage p{s[0], s[1], s[2], s[3], static_cast<int>(s[4]), low, high};
  (dtype == 0 ? image<float> : dtype == 1 ? image<Half> : image<BFloat16>)(x, xs, out, p);
}

void stn_sample(int dtype, const void* x, const int64_t* xs, const float* theta, void* out, int channels_last, const int64_t* s) {
  (dtype == 0 ? sample<float> : dtype == 1 ? sample<Half> : sample<BFloat16>)(x, xs, theta, out, channels_last, s);
}

int stn_sample_packs_f32(const void* x, const int64_t* xs, const void* out, const int64_t* s) {
  return stn_sample_packs(static_cast<const float*>(x), strides(xs), static_cast<const float*>(out), settings(s));
}

void stn_sample_backward(int dtype, const void* grad, const int64_t* gs, const void* x, const int64_t* xs, const float* theta, float* partials,
                         void* grad_x, float* grad_theta, const int64_t* s) {
  (dtype == 0 ? backward<float> : dtype == 1 ? backward<Half> : backward<BFloat16>)(grad, gs, x, xs, theta, partials, grad_x, grad_theta, s);
}

int64_t stn_partials(const int64_t* s) { return stn_theta_blocks(settings(s)) * s[0] * 6; }

float half_to_float(uint16_t bits) { return to_float(Half{bits}); }
uint16_t float_to_half(float value) { return from_float<Half>(value).bits; }
float bfloat16_to_float(uint16_t bits) { return to_float(BFloat16{bits}); }
uint16_t float_to_bfloat16(float value) { return from_float<BFloat16>(value).bits; }
}
