"""What a work's products take on this machine without the rest, timed in turns with the libraries; no model runs here.

peak, peak-bf16: at the pace of multiply-adds in registers, the better of two tries just then. Matrix units are faster.
products: one by one in float32, operands warm; in a step also what an optimiser passes, at main memory's pace (weights
and two moments are read and written, gradients read). No couplings, no waits, no cold activations; but neither what a
chain of products gains by reading activations where it has just written them.
"""

from collections import Counter

import native
from machine import attainable, peak
from works import operations, products

PASSES = ("forward", "backward_data", "backward_weights")  # by their numbers in conv_seconds


def versions(library):
    return {}


def own_ms(call, seconds: float) -> float:
    return 1e3 * call(seconds)


def build(library, model, sizes, threads, device):
    """The work's calls, by name: each gives seconds, and may take some to measure."""
    if device != "cpu":
        raise ValueError(f"[limits] expected device cpu, got {device}")

    def at_peak(call, _):  # the loop in registers has a length of its own
        kinds = ("float32", "bfloat16") if library == "peak-bf16" else ("float32",)
        measured = [{kind: peak(threads, kind) for kind in kinds} for _ in range(2)]
        return 1e-9 * operations(model, sizes)[call] / attainable(measured, kinds[-1])

    shapes = Counter(products(model, sizes))
    weights = sum(count * cin * cout * kernel**2 for (*_, cin, cout, kernel, _), count in shapes.items())

    def one_by_one(call, seconds):
        passes = range(len(PASSES) if call == "step" else 1)
        each = seconds / len(shapes) / len(passes)
        total = sum(count * native.library().conv_seconds(i, *shape, threads, each)
                    for shape, count in shapes.items() for i in passes)
        moved = 7 * 4e-9 * weights / native.library().update_gbs(threads) if call == "step" else 0
        return total + moved

    timed = one_by_one if library == "products" else at_peak
    return {call: lambda seconds=0.0, call=call: timed(call, seconds) for call in operations(model, sizes)}
