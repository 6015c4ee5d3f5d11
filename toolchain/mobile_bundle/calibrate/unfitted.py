"""What a code costs beyond the error that its trial sees: on text that nothing was fitted to, and by int8 inputs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mobile_bundle.codecs.matrices import Matrix, on_host, times
from mobile_bundle.codecs.propagation import row_errors

Floats = NDArray[np.float32]

_DRAWN_ROWS = 64


def unfitted_share(weight: Floats, factor: Matrix, hessian: Matrix, entered: Floats, share: float) -> float:
    """What D H D^T is on other text once the whole text was coded with, divided by what it is on the part of the text
    that the trial is fitted to and judged by.

    Columns make up for each other's errors as the text's inputs are correlated, in part by chance. As in regression a
    fit to n samples is too low by some t on these and too high by t on others, t falling as 1 / n (Akaike 1970, final
    prediction error). Here t is measured, for errors such as propagation leaves: D = e U with random errors e of one
    step for all columns (propagation.py), as tokens of a text are worth fewer samples than they are. On layers 1 and 4
    of `base` three codes cost 1.07 to 1.14 times on text held out what the trial sees, those of the down projection
    1.21 to 1.29 times; this has 1.08 to 1.14, and 1.18 to 1.21.

    weight: float32 (rows, columns), whose answers say how strong the inputs of both texts are; factor: U of the
    Hessian; entered: inputs of other text, float32 (tokens, columns); share: how much of the text the Hessian has seen.
    """
    steps = np.random.default_rng(0).uniform(-1, 1, (_DRAWN_ROWS, len(hessian)))
    difference = times((steps / on_host(factor.diagonal())).astype(np.float32), factor)
    strength = _energy(weight, entered) / max(float(row_errors(weight, hessian).sum(dtype=np.float64)), 1e-30)
    seen = strength * float(row_errors(difference, hessian).sum(dtype=np.float64))
    ratio = _energy(difference, entered) / max(seen, 1e-30)
    t = max((ratio - 1) / (ratio + 1), 0.0)
    return (1 + t * share) / (1 - t)


def rounding_noise(entered: Tensor, group: int) -> Tensor:
    """Mean squared error of the values of an input that is rounded to int8, float32 (tokens, groups of columns). Where
    one value is far larger than the others, it is less than that of uniform errors. entered: float32 (tokens,
    columns); group: `activation_group` of a codec."""
    x = _grouped(entered, group)
    steps = (x.abs().amax(-1, keepdim=True) / 127).clamp_(min=1e-30)
    errors = (x / steps).round_().mul_(steps).sub_(x).square_().sum(-1)
    counts = torch.full((x.shape[1],), x.shape[2], device=x.device)
    counts[-1] -= x.shape[1] * x.shape[2] - entered.shape[1]  # zeros are no values
    return errors / counts


def grouped_squares(weight: Tensor, group: int) -> Tensor:
    """By how much a row's answer takes up of `rounding_noise`: float32 (rows, groups of columns)."""
    return _grouped(weight, group).square().sum(-1)


def _grouped(values: Tensor, group: int) -> Tensor:
    """(rows, groups, columns of a group), with zeros behind the last column; group 0: one of all columns."""
    width = group or values.shape[1]
    padded = functional.pad(values, (0, -values.shape[1] % width))
    return padded.view(len(padded), -1, width)


def _energy(rows: Floats, entered: Floats) -> float:
    """Sum over the rows of the mean squared answer to the inputs."""
    return float(np.square(rows @ entered.T).sum(dtype=np.float64)) / len(entered)
