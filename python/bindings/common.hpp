#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "evenflow/evenflow.hpp"

namespace evenflow::python {

namespace py = pybind11;

/// The last setting of set_matmul_precision(). A call reads it when it begins.
inline std::atomic<MatmulPrecision> matmul_precision{MatmulPrecision::highest};

/// Lets other threads of Python run while it lives. At the end of the program Python ends a daemon thread
/// that asks to go on by unwinding its stack, out of a destructor, which would abort the process: the thread
/// then waits for the end.
class Unlock {
 public:
  Unlock() : state_(PyEval_SaveThread()) {}
  ~Unlock() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  Unlock(const Unlock&) = delete;
  Unlock& operator=(const Unlock&) = delete;

 private:
  PyThreadState* state_;
};

/// Contexts that are not in use. A call takes one and returns it, so that calls of several threads run at
/// the same time.
class ContextPool {
 public:
  ContextPool(std::string device, int threads) : device_(std::move(device)), threads_(threads) {
    free_.push_back(std::make_unique<Context>(device_, threads_));  // reports a missing device at once
  }

  class Lease {
   public:
    Lease(ContextPool& pool) : pool_(pool), context_(pool.take()) {
      context_->set_matmul_precision(matmul_precision);
    }
    ~Lease() {
      // After the call the program may access its arrays and the flow's parameters.
      try {
        context_->synchronize();
      } catch (const Error&) {
        return;  // drops a broken queue; the next call reports what is wrong
      }
      const std::lock_guard<std::mutex> lock(pool_.mutex_);
      pool_.free_.push_back(std::move(context_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    operator Context&() { return *context_; }

   private:
    ContextPool& pool_;
    std::unique_ptr<Context> context_;
  };

 private:
  std::unique_ptr<Context> take() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        std::unique_ptr<Context> context = std::move(free_.back());
        free_.pop_back();
        return context;
      }
    }
    return std::make_unique<Context>(device_, threads_);
  }

  std::string device_;
  int threads_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Context>> free_;
};

/// The state of the Python class: a flow, its parameters and its contexts.
template <class T>
struct PyFlow {
  PyFlow(const ModelConfig& c, const std::string& device, int threads)
      : config(c), flow(build<T>(c)), contexts(device, threads), arena(flow.layout(), device) {
    flow.init(arena, c.seed);
  }

  ModelConfig config;
  Flow<T> flow;
  ContextPool contexts;  // before the arena, because its error text explains a missing device better
  ParamArena<T> arena;
};

template <class T>
struct PyOptimizer {
  std::shared_ptr<PyFlow<T>> owner;
  Optimizer<T> optimizer;
};

/// A moving average of a flow's parameters, on the flow's device.
template <class T>
struct PyAverage {
  std::shared_ptr<PyFlow<T>> owner;
  SharedBuffer<T> values;
};

/// The name of the object's class.
inline std::string type_name(py::handle object) {
  return py::str(py::type::handle_of(object).attr("__name__"));
}

template <class T>
const char* dtype_name() {
  if (std::is_same<T, float>::value) return "float32";
  if (std::is_same<T, double>::value) return "float64";
  if (std::is_same<T, int32_t>::value) return "int32";
  return "uint8";
}

/// TypeError unless `array` is C-contiguous and of type T.
template <class T>
void require(const py::array& array, const char* call, const char* name) {
  if (!py::isinstance<py::array_t<T>>(array) || !(array.flags() & py::array::c_style)) {
    fail<py::type_error>(call, "expected ", name, " to be a C-contiguous ", dtype_name<T>(),
                         " array, got dtype ", std::string(py::str(array.dtype())));
  }
}

/// The values of an array; TypeError unless it is C-contiguous and of type T, ShapeError unless it has one
/// axis.
template <class T>
const T* data_of(const py::array& array, const char* call, const char* name) {
  require<T>(array, call, name);
  if (array.ndim() != 1) fail<ShapeError>(call, "expected ", name, " with 1 axes, got ", array.ndim());
  return static_cast<const T*>(array.data());
}

void bind_arrays(py::module_& m);
void bind_flow(py::module_& m);
void bind_optim(py::module_& m);
void bind_io(py::module_& m);

}  // namespace evenflow::python
