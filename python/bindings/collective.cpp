#include "common.hpp"
#include "core/device.hpp"

namespace evenflow::python {
namespace {

using Unlock = py::gil_scoped_release;

const Backend& backend_of(const std::string& device) {
  const Backend* backend = find_backend(device.c_str());
  if (!backend) fail<ConfigError>("nccl", "expected device cuda for sums over GPUs, got ", device);
  return *backend;
}

/// This process as a rank of a job, with one sum at a time on its way.
class PyCollective {
 public:
  PyCollective(const std::string& device, const std::string& id, int rank, int size) : device_(device) {
    if (id.size() != Backend::kIdBytes) {
      fail<ConfigError>("nccl", "expected an id of ", Backend::kIdBytes, " bytes, got ", id.size());
    }
    if (rank < 0 || rank >= size) {
      fail<ConfigError>("nccl", "expected 0 <= rank < size, got rank ", rank, " and size ", size);
    }
    const Unlock unlock;
    ctx_ = std::make_unique<Context>(device);
    collective_.reset(backend_of(device).join(id.data(), rank, size));
  }

  /// Adds up an array in place, by way of the device's memory.
  void start(py::array values) {
    if (py::isinstance<py::array_t<float>>(values)) {
      start_staged<float>(std::move(values));
    } else {
      start_staged<double>(std::move(values));
    }
  }

  /// Adds up where it is.
  template <class T>
  void start_gradient(std::shared_ptr<PyFlow<T>> flow) {
    require_none();
    if (flow->arena.device() != device_) {
      fail<ConfigError>("nccl", "expected a flow on device ", device_, ", got one on ", flow->arena.device());
    }
    T* grads = flow->arena.params().grads;
    const Unlock unlock;
    collective_->start(*ctx_->device(), grads, grads, flow->flow.layout()->trainable_size());
    sum_ = std::make_unique<Sum>();
    sum_->flow = std::move(flow);
  }

  /// Whether the sum is complete, and the array or the gradient the program's again.
  bool done() {
    if (!sum_) return true;
    {
      const Unlock unlock;
      if (!collective_->done()) return false;
      collective_->finish(*ctx_->device());
      if (sum_->staged) ctx_->to_host(sum_->values, sum_->staged, sum_->bytes);
      ctx_->synchronize();
    }
    sum_.reset();
    return true;
  }

 private:
  struct Sum {
    std::shared_ptr<void> flow;  ///< kept alive, as the array is
    py::object array;
    void* values = nullptr;
    std::unique_ptr<WorkspaceScope> staging;
    void* staged = nullptr;
    size_t bytes = 0;
  };

  void require_none() const {
    if (sum_) fail<ConfigError>("nccl", "expected the sum before to be done, got another");
  }

  template <class T>
  void start_staged(py::array values) {
    require_none();
    data_of<T>(values, "nccl", "values");
    auto sum = std::make_unique<Sum>();
    const int64_t count = values.shape(0);
    sum->values = values.mutable_data();
    sum->bytes = static_cast<size_t>(count) * sizeof(T);
    sum->array = std::move(values);
    const Unlock unlock;
    sum->staging = std::make_unique<WorkspaceScope>(*ctx_);
    T* staged = sum->staging->template take<T>(count);
    ctx_->to_device(staged, sum->values, sum->bytes);
    collective_->start(*ctx_->device(), staged, staged, count);
    sum->staged = staged;
    sum_ = std::move(sum);
  }

  std::string device_;
  std::unique_ptr<Context> ctx_;
  std::unique_ptr<Sum> sum_;
  std::unique_ptr<Collective> collective_;  // its end comes before that of what it adds up
};

}  // namespace

void bind_collective(py::module_& m) {
  using namespace py::literals;
  m.def(
      "prepare_rank",
      [](const std::string& device, int local_rank) {
        const Unlock unlock;
        backend_of(device).prepare_rank(local_rank);
      },
      "device"_a, "local_rank"_a);
  m.def(
      "collective_id",
      [](const std::string& device) {
        char id[Backend::kIdBytes];
        backend_of(device).make_id(id);
        return py::bytes(id, sizeof id);
      },
      "device"_a);
  py::class_<PyCollective>(m, "Collective")
      .def(py::init<const std::string&, const std::string&, int, int>(), "device"_a, "id"_a, "rank"_a,
           "size"_a)
      .def("start", &PyCollective::start, "values"_a)
      .def("start_gradient", &PyCollective::start_gradient<float>, "flow"_a)
      .def("start_gradient", &PyCollective::start_gradient<double>, "flow"_a)
      .def("done", &PyCollective::done);
}

}  // namespace evenflow::python
