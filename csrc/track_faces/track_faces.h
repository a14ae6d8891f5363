// Faces followed from frame to frame; fhrt/faces/track.py says by which means.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "../face_crop/face_crop.h"

namespace fhrt {

constexpr int kPictureSide = 12;  // pixels of a face's picture

using Four = std::array<double, 4>;

// box: x1, y1, x2, y2, pixels, (0, 0) being the outer corner of the first. eyes: x, y of each; NaN where they are not known.
struct Detected {
  Four box;
  double score;
  Four eyes;
};

struct Tracked {
  int64_t id;
  Detected face;
  bool detected;  // in this frame
};

class Tracker {
 public:
  // start_score: of detections that start tracks; patience: seconds.
  Tracker(double start_score, double patience) : start_score_(start_score), patience_(patience) {}

  // The faces of the next frame, in the order of their ids. time: seconds, finite. detections: null where the detector did not run, else of
  // finite numbers with x1 < x2 and y1 < y2. frame [H, W, 3] uint8, or null.
  std::vector<Tracked> update(double time, const std::vector<Detected>* detections, const uint8_t* frame, const FramePlane& plane);

  // Of all tracks that have not ended.
  std::vector<int64_t> ids() const;

 private:
  // Four: centre x, centre y, logarithm of the width, logarithm of the height.
  struct Face {
    int64_t id;
    Four value, rate;
    Four spread, both, rate_spread;  // variance of the value, covariance with the rate, variance of that
    double unseen;                   // seconds since the last detection
    int64_t missed, hits;            // detector runs since then; detections in all
    double score;
    Four eyes;  // in parts of the box
    float picture[kPictureSide * kPictureSide];
    bool found, detected;  // in this frame: by its picture, by the detector
  };

  bool is_new_scene(const uint8_t* frame, const FramePlane& plane);
  void predict(double time);
  void search(const uint8_t* frame, const FramePlane& plane);
  void assign(const std::vector<Detected>& detections);
  std::vector<Tracked> report() const;

  static Four scale(const Four& value);
  static double side(const Four& value);
  static bool near(const Four& face, const Four& other);
  static void correct(Face& face, const Four& innovation, const Four& deviation);
  static void cut_out(Face& face, const uint8_t* frame, const FramePlane& plane);

  double start_score_, patience_;
  std::vector<Face> faces_;
  int64_t next_id_ = 1;
  bool begun_ = false;
  double time_ = 0, step_ = 0;
  int64_t h_ = 0, w_ = 0;     // of the last frame
  std::vector<float> grid_;  // of it, less its mean
};

}  // namespace fhrt
