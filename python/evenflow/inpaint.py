"""Filling in hidden pixels by noisy gradient ascent on the log-likelihood, NICE (Dinh et al. 2014), section 5.2.

Step sizes, noise, masks and the weight of the gradient are those of the authors' script
(laurent-dinh/nice, pylearn2/scripts/reconstruct_mnist_gif.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evenflow._border import arrays, checks
from evenflow.density import check, check_flow, floats
from evenflow.errors import ConfigError, ShapeError, wrong
from evenflow.flow import Flow

MASKS = ("top", "bottom", "even", "odd", "left", "right", "rows", "columns", "random75", "random90")
"""What is hidden: a half; every second pixel; the middle half of rows or columns; a share at random."""
# The script takes the gradient of the mean over its 100 images.
GRADIENT_WEIGHT = 0.01


def hidden_pixels(mask: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A mask for `inpaint`, True where a pixel is hidden.

    Parameters
    ----------
    mask : str
        One of MASKS.
    height, width : int
        Of the images.
    seed : int
        For the masks that hide a share of the pixels at random.

    Returns
    -------
    ndarray of bool, (H, W)
    """
    checks.choice("inpaint", "mask", mask, MASKS)
    height, width, seed = (checks.whole("inpaint", name, value, low=least) for name, value, least in (
        ("height", height, 1), ("width", width, 1), ("seed", seed, 0)))
    y, x = np.mgrid[:height, :width]
    if mask.startswith("random"):
        return np.random.default_rng(seed).random((height, width)) < int(mask.removeprefix("random")) / 100
    masks: dict[str, np.ndarray] = {
        "top": y < height // 2, "bottom": y >= height // 2, "left": x < width // 2, "right": x >= width // 2,
        "even": (y * width + x) % 2 == 0, "odd": (y * width + x) % 2 == 1,
        "rows": (y >= height // 4) & (y < height - height // 4),
        "columns": (x >= width // 4) & (x < width - width // 4)}
    return masks[mask]


def inpaint(flow: Flow, x: Any, hidden: Any, *, label: Any = None, context: Any = None, seed: int = 0,
            steps: int = 2000) -> np.ndarray:
    """Fills hidden pixels by noisy gradient ascent on the log density (Dinh et al. 2014, section 5.2).

    Hidden pixels start uniform; then, for pixels in units of the whole range and i = 0 ... steps - 1,

        x_hidden += a_i (grad log p(x) / 100 + noise),   a_i = 10 / (100 + i),   noise ~ N(0, 1).

    Two things differ from the authors' script: values stay in the range, and one pixel's gradient / 100 is cut to
    -1 ... 1, since models steeper than NICE would run away. Observed uint8 pixels get new noise in every step. The
    script takes 111,895 steps.

    Parameters
    ----------
    flow : Flow
        A model of images.
    x : array_like, (N, H, W, C)
        Images.
    hidden : array_like of bool, (H, W) or (N, H, W)
        Pixels to fill; see `hidden_pixels`.
    label, context
        As in `Flow.log_prob`.
    seed : int
        For the noise.
    steps : int
        Number of steps.

    Returns
    -------
    ndarray, (N, H, W, C)
        The images in level units, with new values where hidden.

    Raises
    ------
    ConfigError
        The model is for tables, or no pixel is hidden.

    See Also
    --------
    hidden_pixels : Masks.

    Examples
    --------
    >>> from evenflow.inpaint import hidden_pixels, inpaint
    >>> digits = ef.data.load("digits")
    >>> flow = ef.NICE((8, 8, 1), hidden=(64, 64), bits=4)
    >>> flow.init(digits.train)
    >>> inpaint(flow, digits.test[:2], hidden_pixels("top", 8, 8), steps=20).shape
    (2, 8, 8, 1)
    """
    where = "inpaint"
    data, steps = check(check_flow(where, flow), where, x, label, context), checks.whole(where, "steps", steps, low=1)
    x, top = data.x, 2.0**flow.bits
    mask = _mask(hidden, x)
    levels: np.ndarray = floats(flow, where, x).astype(np.float64) / top
    noise = 1 / top if x.dtype == np.uint8 else 0.0
    rng = np.random.default_rng(checks.whole(where, "seed", seed, low=0))
    guess = rng.random(x.shape)
    for i in range(steps):
        full = np.where(mask, guess, levels + noise * rng.random(x.shape))
        gradient = flow.log_prob_and_grad(full * top, **data.conditions)[1]
        push = np.clip(GRADIENT_WEIGHT * top * gradient, -1, 1)
        guess = np.clip(guess + 10 / (100 + i) * (push + rng.standard_normal(x.shape)), 0, 1)
    return (np.where(mask, guess, levels) * top).astype(flow.dtype)


def _mask(hidden: Any, x: np.ndarray) -> np.ndarray:
    """Broadcast to x."""
    hidden = arrays.as_array("inpaint", hidden, "hidden")
    if hidden.dtype != bool or hidden.shape not in (x.shape[1:3], x.shape[:3]):
        raise wrong(ShapeError, "inpaint", "hidden", f"expected hidden as bool {x.shape[1:3]} or {x.shape[:3]}, "
                                                     f"got {hidden.dtype} {hidden.shape}")
    if not hidden.any():
        raise wrong(ConfigError, "inpaint", "hidden", "expected hidden pixels, got none")
    return np.broadcast_to(hidden[..., None], x.shape)
