"""The torch operators by themselves: what they leave alone, and what they pass on or refuse in backward."""

import numpy as np
import pytest
from parameters import assert_same, values

torch = pytest.importorskip("torch")

from evenflow.torch import FlowModule  # noqa: E402

torch.set_num_threads(1)


def latents(n):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_the_loss_operator_changes_no_statistic(table, real_nvp):
    """It returns them as they become; `FlowModule.loss` copies them where torch sees it."""
    flow = real_nvp(batch_norm=True)
    flow.init(table)
    module, x, before = FlowModule(flow), torch.from_numpy((2 * table).astype(np.float32)), values(flow)
    _, _, after, _ = torch.ops.evenflow.loss(x, module._tensors(x, None), module._number, None, None, None, False)
    assert_same(flow, before)
    module.loss(x)
    variances = {name: buffer for name, buffer in module.named_buffers() if name.endswith(".var")}
    assert all(torch.isin(buffer, after).all() for buffer in variances.values())
    assert not any(np.array_equal(buffer, before[name]) for name, buffer in variances.items())


def test_a_gradient_of_the_log_determinant_that_is_not_finite(table_model):
    """It is passed on, as torch's operators do, where that of the data is finite too."""
    module = FlowModule(table_model)
    for call in (module.inverse, module):
        z = latents(5)
        out, logdet = call(z)
        (out.sum() + logdet.sum() * torch.inf).backward()
        assert z.grad.isnan().all() and all(p.grad.isnan().all() for p in module.parameters())
        module.zero_grad()


def test_the_gradient_of_an_inverse_that_x_does_not_lead_back_through(table, real_nvp):
    gradients = []
    for dtype in ("float32", "float64"):
        flow, z = real_nvp(couplings=8, permutation="lu", dtype=dtype), latents(200)
        flow.init(table)
        for name, value in flow.named_parameters().items():
            if name.endswith("logs"):
                value[:] = [2, -2, 0]
        module = FlowModule(flow)
        x, logdet = module.inverse(z.to(module._dtype))
        (x.sum() + logdet.sum()).backward()
        gradients.append(torch.cat([z.grad.ravel(), *(p.grad.ravel() for p in module.parameters())]).double())
    assert torch.dist(*gradients) < 1e-3 * gradients[1].norm()
