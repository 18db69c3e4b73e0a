"""Batch: samples with all that is said of them, from a reader of files to the core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Batch:
    """Samples, what their density is conditioned on, and how much each counts; None for what there is not."""

    x: Any
    """(N, *shape)."""
    label: Any = None
    """(N,), whole numbers."""
    context: Any = None
    """(N, C)."""
    weight: Any = None
    """(N,), >= 0."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Batch:
        """These rows, by a slice or by their numbers."""
        parts = self.x, self.label, self.context, self.weight
        return Batch(*(None if part is None else part[rows] for part in parts))

    @property
    def given(self) -> Any:
        """What the core is given beside the samples: labels or contexts, of which no model has both."""
        return self.label if self.context is None else self.context

    @property
    def conditions(self) -> dict[str, Any]:
        """Labels and contexts by name, as a flow's calls take them."""
        return {name: part for name in ("label", "context") if (part := getattr(self, name)) is not None}
