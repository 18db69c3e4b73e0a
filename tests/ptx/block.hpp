#pragma once

#include <cstdint>
#include <vector>

#include "memory.hpp"
#include "program.hpp"

namespace evenflow::ptx {

/// The blocks of one launch, one after the other, and their threads up to a barrier or an instruction of the
/// whole warp. Ends the process where a GPU would fail, or where the order of threads would decide.
class Launch {
 public:
  Launch(const Kernel& kernel, Memory& memory, const void* parameters, int64_t blocks, int threads,
         uint32_t number);
  void run(int64_t block);

 private:
  enum class State : uint8_t { runs, at_barrier, at_warp, ended };
  struct Thread {
    std::vector<uint64_t> registers;
    std::vector<char> local;
    size_t next = 0;  ///< instruction
    State state = State::runs;
  };

  [[noreturn]] void fail(const char* why) const;
  void run_thread(int thread);
  void run_warp(int first);
  bool pass_barrier();
  void multiply(int first, const Instruction& i);
  void load_matrices(int first, const Instruction& i);
  void execute(const Instruction& i, Thread& thread);
  void access(const Instruction& i, Thread& thread);
  char* reach(const Instruction& i, Thread& thread, int64_t bytes);
  void convert(const Instruction& i, uint64_t* r) const;
  template <class T>
  uint64_t real(const Instruction& i, const uint64_t* r) const;
  template <class T>
  uint64_t whole(const Instruction& i, const uint64_t* r) const;

  const Kernel& kernel_;
  Memory& memory_;
  const void* parameters_;
  int64_t blocks_;
  std::vector<Thread> threads_;
  std::vector<char> shared_;
  Traces traces_;  ///< of shared memory
  Toucher by_;
  const Instruction* now_ = nullptr;
};

}  // namespace evenflow::ptx
