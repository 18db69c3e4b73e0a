#pragma once

#if defined(_WIN32)
#define EVENFLOW_API
#else
#define EVENFLOW_API __attribute__((visibility("default")))
#endif
