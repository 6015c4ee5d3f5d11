"""A matrix that is trained with its rounding: master weights, scales and offsets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mobile_bundle.healing.grids import Grid, Start


class Matrix(nn.Module):
    """weight: float32 (rows, columns); scale and offset of the grid's shape; softness: of Grid.values, for now. Calling
    it gives the rounded values. codes_fixed: `weight` holds the codes (Grid.codes), which are not trained."""

    unit: Tensor
    softness: Tensor

    def __init__(self, grid: Grid, start: Start) -> None:
        super().__init__()
        self.grid = grid
        self.codes_fixed = False
        self.weight = nn.Parameter(torch.from_numpy(start.weight.copy()))
        self.scale = nn.Parameter(torch.from_numpy(start.scale.copy()))
        self.offset = None if start.offset is None else nn.Parameter(torch.from_numpy(start.offset.copy()))
        self.register_buffer("unit", torch.tensor(start.unit, dtype=torch.float32))
        self.register_buffer("softness", torch.zeros(()), persistent=False)

    def forward(self) -> Tensor:
        """float32 (rows, columns): what the packed format decodes to, while softness is 0."""
        if self.codes_fixed:
            return self.grid.decoded(self.weight, self.scale, self.offset, self.unit)
        return self.grid.values(self.weight, self.scale, self.offset, self.unit, self.softness)

    @torch.no_grad()
    def fix_codes(self, given: bool) -> None:
        """From now on scale and offset alone are trained. given: whether `weight` holds the codes already."""
        if not given:
            self.weight.copy_(self.grid.codes(self.weight, self.scale, self.offset, self.unit))
        self.weight.requires_grad_(False)
        self.codes_fixed = True
