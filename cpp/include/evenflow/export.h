#pragma once

#if defined(_WIN32)
#define EVENFLOW_API
#define EVENFLOW_LOCAL
#else
#define EVENFLOW_API __attribute__((visibility("default")))
#define EVENFLOW_LOCAL __attribute__((visibility("hidden"))) /* a member of an exported class that is not */
#endif
