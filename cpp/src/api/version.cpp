#include "evenflow/version.h"

#include "evenflow/evenflow.h"

const char* evenflow_version(void) {
  return EVENFLOW_VERSION;
}
