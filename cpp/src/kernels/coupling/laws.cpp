#include "kernels/coupling/laws.hpp"

#include <optional>

#include "evenflow/error.hpp"

namespace evenflow {
namespace {

/// f(a law as it is by default) for each of the table that has a name.
template <size_t i = 0, class F>
void for_each_law(const F& f) {
  if constexpr (i < std::variant_size_v<Law>) {
    using L = std::variant_alternative_t<i, Law>;
    if constexpr (!std::is_base_of_v<laws::FixedLaw, L>) f(L());
    for_each_law<i + 1>(f);
  }
}

/// Whether L reads settings besides its name.
template <class L>
constexpr bool has_settings = std::is_constructible_v<L, const LawOptions&>;

template <class Wanted>
std::vector<std::string> names(const Wanted& wanted) {
  std::vector<std::string> out;
  for_each_law([&](const auto& law) {
    if (wanted(law)) out.push_back(law.name);
  });
  return out;
}

}  // namespace

std::vector<std::string> law_names() {
  return names([](const auto&) { return true; });
}

std::vector<std::string> table_law_names() {
  return names([](const auto& law) { return law.for_tables; });
}

std::vector<std::string> laws_with_settings() {
  return names([](const auto& law) { return has_settings<std::decay_t<decltype(law)>>; });
}

Law law_of(const LawOptions& options) {
  std::optional<Law> found;
  for_each_law([&](auto law) {
    if (law.name != options.name) return;
    if constexpr (has_settings<decltype(law)>) {
      found = decltype(law)(options);
    } else {
      found = law;
    }
  });
  if (found) return *found;
  std::string known;
  for (const std::string& name : law_names()) known += (known.empty() ? "" : ", ") + name;
  fail<ConfigError>("coupling", "there is no law '", options.name, "'; choose one of ", known);
}

int numbers_of(const Law& law) {
  return std::visit([](const auto& l) { return l.parameters(); }, law);
}

int64_t numbers_of_law(const LawOptions& options) {
  return numbers_of(law_of(options));
}

std::vector<SharedNumber> shared_numbers_of(const Law& law) {
  return std::visit(
      [](const auto& l) {
        using L = std::decay_t<decltype(l)>;
        std::vector<SharedNumber> out;
        if constexpr (L::shared > 0) {
          for (int i = 0; i < L::shared; ++i) out.push_back({L::shared_names[i], L::shared_defaults[i]});
        }
        return out;
      },
      law);
}

}  // namespace evenflow
