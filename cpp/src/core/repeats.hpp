#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

namespace evenflow {

/// Device::repeat() for a device that can record kernels. Graph frees itself; Recorder has
///   begin(): from now on kernels are recorded and do not run;
///   std::optional<Graph> end(): ends the recording; empty if it failed;
///   abandon(): ends the recording without a graph;
///   launch(Graph&): queues a recording.
template <class Graph>
class Repeats {
 public:
  /// Must be called before anything that a graph can't hold: a copy, a wait, an allocation.
  void interrupt() {
    ++interruptions_;
    if (recording_) throw Interrupted();
  }
  /// The same for functions that must not throw.
  void interrupt_quietly() noexcept { ++interruptions_; }

  template <class Recorder>
  void run(Recorder& recorder, const std::vector<uint64_t>& key, const std::function<void()>& f) {
    if (entries_.size() >= kMost && !entries_.count(key)) entries_.clear();
    Entry& entry = entries_[key];
    if (!entry.graph && entry.steady) entry.graph = record(recorder, f);
    if (entry.graph) return recorder.launch(*entry.graph);
    const int64_t before = interruptions_;
    f();
    entry.steady = !entry.steady && interruptions_ == before;  // after a failed recording, do not try at once
  }

 private:
  struct Interrupted {};
  struct Entry {
    bool steady = false;  ///< the last call queued kernels and did nothing else
    std::optional<Graph> graph;
  };
  static constexpr size_t kMost = 32;  ///< graphs; bounds the memory of a program that never repeats a call

  template <class Recorder>
  std::optional<Graph> record(Recorder& recorder, const std::function<void()>& f) {
    const int64_t before = interruptions_;
    bool whole = true;
    recorder.begin();
    recording_ = true;
    try {
      f();
    } catch (...) {
      // Other threads can spoil a recording; an error of f itself is thrown again when it runs.
      whole = false;
    }
    recording_ = false;
    if (whole && interruptions_ == before) return recorder.end();
    recorder.abandon();
    return std::nullopt;
  }

  std::map<std::vector<uint64_t>, Entry> entries_;
  int64_t interruptions_ = 0;
  bool recording_ = false;
};

}  // namespace evenflow
