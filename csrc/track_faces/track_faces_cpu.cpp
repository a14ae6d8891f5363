#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "../face_crop/face_crop_simd.h"
#include "../match_templates/match_templates.h"
#include "track_faces.h"

namespace fhrt {
namespace {

// Lengths in face widths, times in seconds. Chosen on made-up scenes (`python -m benchmarks tracking`) of other faces than those that are
// reported.
constexpr Four kMeasured{0.06, 0.06, 0.08, 0.08};     // standard deviation of a detector's box
constexpr Four kSpeed{4, 4, 0.3, 0.3};                // of a new face's rates
constexpr Four kAcceleration{10, 10, 0.05, 0.05};     // root of the spectral density of the rates' random walk
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Four kSearched{0.05, 0.05, kInfinity, kInfinity};  // standard deviation of a place found by its picture

constexpr double kGate = 16;  // largest squared Mahalanobis distance of a face's detection: 99.7 % of chi-squared, four degrees of freedom
constexpr double kNear = 0.5;  // face widths between two centres below which they are one face's
constexpr int64_t kConfirmed = 2;  // detections from which on a face that the detector missed is still reported, if its picture is found,
constexpr int64_t kMissed = 3;     // for so many detector runs

constexpr int kReach = 6;         // so many more pixels to each side of a picture are searched,
constexpr float kFlat = 1;        // grey levels of standard deviation up to which it is found everywhere
constexpr float kAlike = 0.6f;    // and from this normalised correlation on a place is the face's

constexpr int kGrid = 32;  // rows and columns of the pixels by which frames are compared
// Their correlation below which the scene has changed: 96 % of pairs of photographs lie below, 7 % of photographs moved by a twentieth of
// their width, and of 378 pairs of frames in two films the three cuts alone.
constexpr double kCut = 0.3;

double square(double v) { return v * v; }

Four value_of(const Four& box) {
  return {(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, std::log(box[2] - box[0]), std::log(box[3] - box[1])};
}

}  // namespace

std::vector<Tracked> Tracker::update(double time, const std::vector<Detected>* detections, const uint8_t* frame, const FramePlane& plane) {
  if (frame && is_new_scene(frame, plane)) faces_.clear();
  predict(time);
  for (Face& face : faces_) face.found = face.detected = false;
  if (frame) search(frame, plane);
  if (detections) {
    assign(*detections);
    for (Face& face : faces_)
      if (frame && face.detected) cut_out(face, frame, plane);
  }
  return report();
}

std::vector<int64_t> Tracker::ids() const {
  std::vector<int64_t> ids(faces_.size());
  std::transform(faces_.begin(), faces_.end(), ids.begin(), [](const Face& face) { return face.id; });
  return ids;
}

bool Tracker::is_new_scene(const uint8_t* frame, const FramePlane& plane) {
  std::vector<float> grid;
  grid.reserve(kGrid * kGrid);
  const auto middle = [](int k, int64_t size) { return static_cast<int64_t>((k + 0.5) * static_cast<double>(size) / kGrid); };
  for (int i = 0; i < kGrid; ++i)
    for (int j = 0; j < kGrid; ++j) grid.push_back(frame[middle(i, plane.h) * plane.row_bytes + middle(j, plane.w) * plane.channels + 1]);
  const float mean = std::accumulate(grid.begin(), grid.end(), 0.0f) / static_cast<float>(grid.size());  // whole numbers: exact
  for (float& level : grid) level -= mean;
  const bool other_size = plane.h != h_ || plane.w != w_;
  h_ = plane.h, w_ = plane.w;
  grid_.swap(grid);
  if (other_size) return true;
  const auto dot = [](const std::vector<float>& a, const std::vector<float>& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); };
  const double power = std::sqrt(dot(grid, grid) * dot(grid_, grid_));
  return power > 0 && dot(grid, grid_) < kCut * power;
}

void Tracker::predict(double time) {
  if (begun_ && time > time_) step_ = time - time_;
  begun_ = true;
  time_ = time;
  if (step_ > patience_) faces_.clear(), step_ = 0;
  const double step = step_;
  const auto leaves = [&](Face& face) {
    for (int k = 0; k < 4; ++k) face.value[k] += step * face.rate[k];
    const Four unit = scale(face.value);
    for (int k = 0; k < 4; ++k) {
      const double noise = square(kAcceleration[k] * unit[k]);
      face.spread[k] += step * (2 * face.both[k] + step * (face.rate_spread[k] + noise * (step / 3)));
      face.both[k] += step * (face.rate_spread[k] + noise * (step / 2));
      face.rate_spread[k] += step * noise;
    }
    face.unseen += step;
    if (face.unseen > patience_ && face.missed > 0) return true;
    const double half_w = std::exp(face.value[2]) / 2, half_h = std::exp(face.value[3]) / 2;
    const auto seen = [](double centre, double half, int64_t size) { return centre + half > 0 && centre - half < static_cast<double>(size); };
    return h_ > 0 && !(seen(face.value[0], half_w, w_) && seen(face.value[1], half_h, h_));
  };
  faces_.erase(std::remove_if(faces_.begin(), faces_.end(), leaves), faces_.end());
}

// Moves faces to where their pictures are found near the predictions.
void Tracker::search(const uint8_t* frame, const FramePlane& plane) {
  struct Met {
    Four place;
    float likeness;
  };
  std::vector<Met> all;
  for (Face& face : faces_) {
    const double width = side(face.value), square[3] = {face.value[0], face.value[1], width};
    float met[3] = {0, 0, 0};
    if (std::isfinite(square[0]) && std::isfinite(square[1]) && std::isfinite(width) && width > 0)
      match_templates_cpu(frame, square, face.picture, met, {plane, 1, kPictureSide, kReach, kFlat});
    face.found = met[2] >= kAlike;
    Four place = face.value;
    for (int k = 0; k < 2 && face.found; ++k) place[k] += met[k] * (width / kPictureSide);
    all.push_back({place, met[2]});
  }
  for (size_t n = 0; n < faces_.size(); ++n) {  // two pictures in one place: the less alike face is behind the other
    const auto hides = [&](const Met& other) { return all[n].likeness < other.likeness && near(all[n].place, other.place); };
    Face& face = faces_[n];
    face.found = face.found && std::none_of(all.begin(), all.end(), hides);
    if (face.found) correct(face, {all[n].place[0] - face.value[0], all[n].place[1] - face.value[1], 0, 0}, kSearched);
  }
}

// Corrects the faces that were detected and starts tracks of new ones.
void Tracker::assign(const std::vector<Detected>& detections) {
  std::vector<Four> values(detections.size());
  std::transform(detections.begin(), detections.end(), values.begin(), [](const Detected& one) { return value_of(one.box); });
  const auto starts = [&](size_t d) { return detections[d].score >= start_score_; };
  std::vector<bool> taken(values.size());
  const auto take = [&](Face& face, size_t d) {
    const Four &box = detections[d].box, &eyes = detections[d].eyes;
    const double w = box[2] - box[0], h = box[3] - box[1];
    face.detected = taken[d] = true;
    face.unseen = 0, face.missed = 0, ++face.hits;
    face.score = detections[d].score;
    face.eyes = {(eyes[0] - box[0]) / w, (eyes[1] - box[1]) / h, (eyes[2] - box[0]) / w, (eyes[3] - box[1]) / h};
  };
  for (Face& face : faces_) ++face.missed;

  // The likeliest pair first, each face and detection at most once; those of low score only when no other can be a face's.
  struct Pair {
    double cost;
    size_t face, detection;
  };
  for (const bool high : {true, false}) {
    std::vector<Pair> pairs;
    for (size_t f = 0; f < faces_.size(); ++f) {
      const Face& face = faces_[f];
      if (face.detected) continue;
      const Four unit = scale(face.value);
      Four variance;
      double unlikely = 0;  // the logarithm of the determinant: without it a face that might be anywhere takes everyone's detection.
      for (int k = 0; k < 4; ++k) {
        variance[k] = face.spread[k] + square(kMeasured[k] * unit[k]);
        unlikely += std::log(variance[k] / square(unit[k]));
      }
      for (size_t d = 0; d < values.size(); ++d) {
        if (starts(d) != high) continue;
        double distance = 0;
        for (int k = 0; k < 4; ++k) distance += square(values[d][k] - face.value[k]) / variance[k];
        if (distance <= kGate || near(face.value, values[d])) pairs.push_back({distance + unlikely, f, d});
      }
    }
    std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.cost < b.cost; });
    for (const Pair& pair : pairs) {
      Face& face = faces_[pair.face];
      if (face.detected || taken[pair.detection]) continue;
      take(face, pair.detection);
      Four off;
      for (int k = 0; k < 4; ++k) off[k] = values[pair.detection][k] - face.value[k];
      correct(face, off, kMeasured);
    }
  }

  std::vector<size_t> fresh;
  for (size_t d = 0; d < values.size(); ++d) {
    const auto twin = [&](const Face& face) { return face.detected && near(face.value, values[d]); };
    if (starts(d) && !taken[d] && std::none_of(faces_.begin(), faces_.end(), twin)) fresh.push_back(d);
  }
  for (size_t n = 0; n < fresh.size(); ++n) {
    const size_t d = fresh[n];
    const auto twin = [&](size_t other) { return near(values[other], values[d]); };
    if (std::any_of(fresh.begin(), fresh.begin() + static_cast<std::ptrdiff_t>(n), twin)) continue;
    Face face{};
    face.id = next_id_++;
    face.value = values[d];
    const Four unit = scale(face.value);
    for (int k = 0; k < 4; ++k) face.spread[k] = square(kMeasured[k] * unit[k]), face.rate_spread[k] = square(kSpeed[k] * unit[k]);
    take(face, d);
    faces_.push_back(face);
  }
}

std::vector<Tracked> Tracker::report() const {
  std::vector<Tracked> tracks;
  for (const Face& face : faces_) {
    if (face.missed > 0 && !(face.found && face.hits >= kConfirmed && face.missed <= kMissed)) continue;
    const double half_w = std::exp(face.value[2]) / 2, half_h = std::exp(face.value[3]) / 2, x = face.value[0] - half_w, y = face.value[1] - half_h;
    const Four box{x, y, face.value[0] + half_w, face.value[1] + half_h};
    const Four eyes{x + face.eyes[0] * (2 * half_w), y + face.eyes[1] * (2 * half_h), x + face.eyes[2] * (2 * half_w), y + face.eyes[3] * (2 * half_h)};
    tracks.push_back({face.id, {box, face.score, eyes}, face.detected});
  }
  return tracks;
}

// What one unit of kMeasured, kSpeed … is of each component: a face width, or 1 of a logarithm.
Four Tracker::scale(const Four& value) {
  const double width = std::exp(value[2]);
  return {width, width, 1, 1};
}

// Side of the square of a face's picture in the frame, pixels: the root of its box's area.
double Tracker::side(const Four& value) { return std::exp((value[2] + value[3]) / 2); }

// Whether two centres lie too near for two faces.
bool Tracker::near(const Four& face, const Four& other) {
  const double limit = kNear * std::exp(face[2]);
  return std::abs(face[0] - other[0]) < limit && std::abs(face[1] - other[1]) < limit;
}

// Kalman's correction by what was measured less what was predicted.
void Tracker::correct(Face& face, const Four& innovation, const Four& deviation) {
  const Four unit = scale(face.value);
  for (int k = 0; k < 4; ++k) {
    const double total = face.spread[k] + square(deviation[k] * unit[k]), value = face.spread[k] / total, rate = face.both[k] / total;
    face.value[k] += value * innovation[k];
    face.rate[k] += rate * innovation[k];
    face.rate_spread[k] -= rate * face.both[k];
    face.both[k] -= value * face.both[k];
    face.spread[k] -= value * face.spread[k];
  }
}

// The face's picture, green alone.
void Tracker::cut_out(Face& face, const uint8_t* frame, const FramePlane& plane) {
  constexpr int64_t kPixels = kPictureSide * kPictureSide;
  const double zoom = side(face.value) / kPictureSide, corner = 0.5 + zoom * (kPictureSide / 2.0 - 0.5);
  const float transform[6] = {static_cast<float>(zoom), 0, static_cast<float>(face.value[0] - corner),
                              0, static_cast<float>(zoom), static_cast<float>(face.value[1] - corner)};
  const FaceCrop crop{1, kPictureSide, kPictureSide, plane, {}, {0, 0, 0, 0}, {1, 1, 1, 1}, {}};
  float colours[3 * kPixels];
  FHRT_BEST(crop_rows)(frame, nullptr, transform, colours, crop, 0, kPictureSide);
  std::copy_n(colours + kPixels, kPixels, face.picture);
}

}  // namespace fhrt
