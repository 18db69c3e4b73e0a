#pragma once

/// The whole public C++ API.

#include "evenflow/conditioner.hpp"
#include "evenflow/config.hpp"
#include "evenflow/context.hpp"
#include "evenflow/error.hpp"
#include "evenflow/flow.hpp"
#include "evenflow/io.hpp"
#include "evenflow/layer.hpp"
#include "evenflow/layers.hpp"
#include "evenflow/model.hpp"
#include "evenflow/models.hpp"
#include "evenflow/optim.hpp"
#include "evenflow/params.hpp"
#include "evenflow/prior.hpp"
#include "evenflow/rng.hpp"
#include "evenflow/trainable.hpp"
#include "evenflow/types.hpp"
#include "evenflow/version.h"
