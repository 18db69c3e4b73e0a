#include "targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  evenflow::fuzz::configuration(data, size);
  return 0;
}
