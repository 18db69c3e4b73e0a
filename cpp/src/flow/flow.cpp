#include "evenflow/flow.hpp"

#include "flow/step.hpp"

namespace evenflow {

void check_labels(const char* call, const int32_t* labels, int64_t n, int64_t classes) {
  if (!classes) return;
  if (!labels) fail<ConfigError>(call, "expected ", n, " labels for a class-conditional model, got none");
  for (int64_t i = 0; i < n; ++i) {
    if (labels[i] < 0 || labels[i] >= classes) {
      fail<ConfigError>(call, "expected labels in 0 ... ", classes - 1, ", got ", labels[i], " at ", i);
    }
  }
}

template <class T>
Flow<T>::Flow(Shape sample_shape, Base base, const ParamLimit& limit)
    : chain_(std::make_unique<Chain<T>>(sample_shape, base, limit)) {}
template <class T>
Flow<T>::~Flow() = default;
template <class T>
Flow<T>::Flow(Flow&&) noexcept = default;
template <class T>
Flow<T>& Flow<T>::operator=(Flow&&) noexcept = default;

template <class T>
void Flow<T>::add(const std::string& name, std::unique_ptr<Layer<T>> layer) {
  chain_->add(name, std::move(layer));
}

template <class T>
void Flow<T>::factor_out(int64_t keep) {
  chain_->factor_out(keep);
}

template <class T>
void Flow<T>::classify(int64_t classes, double weight) {
  chain_->head = std::make_unique<ClassHead<T>>(chain_->current, classes, weight);
  chain_->head_at = chain_->nodes.size();
}

template <class T>
void Flow<T>::set_classes(int64_t classes) {
  chain_->classes = classes;
}

template <class T>
void Flow<T>::set_context(int64_t numbers) {
  if (numbers < 0) fail<ConfigError>("set_context", "expected 0 numbers or more, got ", numbers);
  chain_->context = numbers;
}

template <class T>
void Flow<T>::finalize() {
  chain_->finalize();
}

template <class T>
Shape Flow<T>::sample_shape() const {
  return chain_->sample_shape;
}
template <class T>
Shape Flow<T>::output_shape() const {
  return chain_->current;
}
template <class T>
const std::vector<Level>& Flow<T>::levels() const {
  return chain_->levels;
}
template <class T>
Base Flow<T>::base() const {
  return chain_->base;
}
template <class T>
int64_t Flow<T>::classes() const {
  return chain_->classes;
}
template <class T>
int64_t Flow<T>::context() const {
  return chain_->context;
}
template <class T>
const std::shared_ptr<const ParamLayout>& Flow<T>::layout() const {
  return chain_->layout;
}
template <class T>
void Flow<T>::init(ParamArena<T>& arena, uint64_t seed) const {
  Rng rng(seed, Stream::init);
  for (const Node<T>& node : chain_->nodes) node.layer->init(arena, rng);
  if (chain_->context) std::fill_n(arena.value(chain_->context_std), chain_->context, T(1));
}

template <class T>
bool Flow<T>::initialized(const ParamArena<T>& arena) const {
  return arena.value(chain_->initialized)[0] != T(0);
}

template <class T>
void Flow<T>::check_parameters(const ParamArena<T>& arena) const {
  for (const Node<T>& node : chain_->nodes) node.layer->check_parameters(arena);
  const T flag = arena.value(chain_->initialized)[0];
  if (flag != T(0) && flag != T(1)) {
    fail<NumericError>("flow", "expected 0 or 1 for 'initialized', got ", flag);
  }
  for (int64_t c = 0; c < chain_->context; ++c) {
    const T mean = arena.value(chain_->context_mean)[c], std = arena.value(chain_->context_std)[c];
    if (std::isfinite(mean) && std::isfinite(std) && std > 0) continue;
    fail<NumericError>("flow", "expected a finite mean and a positive deviation of the context, got ", mean,
                       " and ", std, " in column ", c);
  }
}

template class Flow<float>;
template class Flow<double>;

}  // namespace evenflow
