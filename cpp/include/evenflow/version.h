#pragma once

#define EVENFLOW_VERSION "0.1.0"
