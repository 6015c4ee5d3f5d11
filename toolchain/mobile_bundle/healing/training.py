"""The training loop: distillation of the whole model.

AdamW (0.9, 0.95) without decay, gradient norm 1, warm-up and cosine to 2 %, float32 master weights, bf16 on a GPU. At
the end the mean of the last weights is taken where it does better on held-out text."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobile_bundle.errors import NotFinite
from mobile_bundle.healing.decoders import Original, Student, rated
from mobile_bundle.healing.divergence import Slope, divergence, divergence_and_slope
from mobile_bundle.healing.evaluation import Held, evaluate_held
from mobile_bundle.healing.kept_states import KeptStates, free_memory
from mobile_bundle.healing.mixture import Mixture, Tokens
from mobile_bundle.healing.progress import Trained
from mobile_bundle.healing.settings import Settings
from mobile_bundle.healing.state import RunFolder, RunState
from mobile_bundle.healing.world import World

_LOWEST_RATE = 0.02
_SHORT_RUN = 10
"""The warm-up takes at most 1 / _SHORT_RUN of a run."""


class Distillation(nn.Module):
    """The student and its loss, as one module that several processes train together. slope_of: divergence_and_slope, or
    that compiled."""

    def __init__(self, student: Student, original: Original, slope_of: Slope = divergence_and_slope) -> None:
        super().__init__()
        self.student = student
        self._head = [original.head]
        self._slope_of = slope_of

    def forward(self, tokens: Tensor, x_original: Tensor) -> Tensor:
        """Mean KL of the next-token distributions. x_original: what the original's head sees of the tokens."""
        x, head = self.student(tokens)
        return divergence(x, head, x_original, self._head[0], self._slope_of)


class Training:
    """A run from its state to its end. windows: the held-out text, int32 (count, tokens)."""

    def __init__(
        self,
        student: Student,
        original: Original,
        mixture: Mixture,
        windows: Tokens,
        settings: Settings,
        world: World,
        folder: RunFolder,
        progress: Callable[[Trained], None],
    ) -> None:
        self._student, self._original, self._mixture, self._windows = student, original, mixture, windows
        self._settings, self._world, self._folder, self._progress = settings, world, folder, progress
        self._cuda = world.device.type == "cuda"
        student.checkpointing = settings.checkpointing
        self._optimiser = torch.optim.AdamW(
            rated(student, settings.rate), betas=(0.9, 0.95), weight_decay=0.0, fused=self._cuda or None
        )
        self._state = RunState()
        saved = folder.load(world.device)
        if saved is not None:
            self._state, weights, optimiser = saved
            student.load_state_dict(weights)
            self._optimiser.load_state_dict(optimiser)
        folder.rewind_log(self._state.step)
        slope_of = torch.compile(divergence_and_slope) if settings.compile else divergence_and_slope
        module = Distillation(student, original, slope_of)
        self._module: nn.Module = DistributedDataParallel(module) if world.size > 1 else module
        self._states = KeptStates(original, len(mixture), lambda: free_memory(world.device))
        self._begun_at = self._state.step
        self._started = time.monotonic()
        self._saved = self._started

    @property
    def tokens(self) -> int:
        """Trained on so far, those read twice counted twice."""
        return self._state.step * self._settings.batch * self._settings.sequence

    def run(self) -> Held:
        """Trains to the end and leaves the best weights in the student. Returns what they do on held-out text.

        NotFinite when the gradient is not finite; a checkpoint of the last good state is kept then."""
        share = self._share()
        if self._state.best is None:  # training must not leave it worse than it was
            start = self._evaluate()
            self._tell(share, start.kl, start)
        while share < 1.0:
            loss = self._step(share)
            self._state.step += 1
            share = self._share()
            self._average(share)
            held = None
            if share >= (self._state.evaluated + 1) / self._settings.evaluations:
                self._state.evaluated = max(self._state.evaluated + 1, int(share * self._settings.evaluations))
                held = self._evaluate()
            self._tell(share, loss, held)
            if self._state.worse >= self._settings.patience:
                break
            self._save_sometimes()
        return self.finish()

    def _share(self) -> float:
        """Of the run that is done. The same in all processes."""
        settings, found = self._settings, 0.0
        if settings.tokens is not None:
            found = self._state.step / max(1, math.ceil(settings.tokens / (settings.batch * settings.sequence)))
        if settings.minutes is not None:
            found = max(found, self._seconds() / (60 * settings.minutes))
        return min(1.0, self._world.agreed(found))

    def _seconds(self) -> float:
        """Of training, over all runs that this one goes on from."""
        return self._state.seconds + time.monotonic() - self._started

    def _step(self, share: float) -> float:
        """One step of the optimiser. Returns the loss."""
        settings, optimiser = self._settings, self._optimiser
        warmup = settings.warmup
        if settings.tokens is not None:
            warmup = min(warmup, max(1, settings.tokens // (settings.batch * settings.sequence) // _SHORT_RUN))
        rate = settings.rate * min(1.0, (self._state.step + 1) / warmup)
        rate *= _LOWEST_RATE + (1 - _LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self._student.int8 = share >= 1 - settings.int8_share
        optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._world.device)
        for chosen, tokens, part, last in self._parts():
            with self._unshared(last), self._mixed():
                loss = self._module(tokens, self._states.of(chosen, tokens)) * part
                loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self._student.parameters(), 1.0)
        if not bool(torch.isfinite(norm)):
            self._save()
            raise NotFinite(
                f"the gradient of step {self._state.step + 1} is not finite: training diverged",
                f"lower `rate`; the same command goes on from the last good state in {self._folder.path}",
            )
        optimiser.step()
        return float(total)

    def _parts(self) -> Iterator[tuple[NDArray[np.int64], Tensor, float, bool]]:
        """What this process reads of a step's batch: (which sequences, their tokens, their part of this process's
        share, whether they are the last)."""
        settings, world = self._settings, self._world
        own = settings.batch // world.size
        begin = self._state.step * settings.batch + world.rank * own
        for first in range(0, own, settings.micro_batch):
            count = min(settings.micro_batch, own - first)
            chosen = self._mixture.chosen(begin + first, begin + first + count)
            tokens = torch.from_numpy(self._mixture.read(chosen).astype("int64")).to(world.device)
            yield chosen, tokens, count / own, first + count == own

    def _unshared(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients go to the other processes with the last part alone."""
        if isinstance(self._module, DistributedDataParallel) and not last:
            return self._module.no_sync()
        return nullcontext()

    def _mixed(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self._cuda else nullcontext()

    @torch.no_grad()
    def _average(self, share: float) -> None:
        state = self._state
        if share <= 1 - self._settings.average_share:
            return
        state.mean_count += 1
        for name, value in self._student.state_dict().items():
            if name in state.mean:
                state.mean[name].lerp_(value, 1 / state.mean_count)
            else:
                state.mean[name] = value.clone()

    def _evaluate(self) -> Held:
        state = self._state
        held = self._held()
        if held.kl < state.best_kl:
            state.best_kl, state.worse = held.kl, 0
            state.best = {name: value.clone() for name, value in self._student.state_dict().items()}
        else:
            state.worse += 1
        return held

    def _held(self) -> Held:
        return evaluate_held(
            self._student,
            self._original,
            self._windows,
            self._settings.micro_batch,
            self._settings.int8_share > 0,
        )

    def _tell(self, share: float, loss: float, held: Held | None) -> None:
        state, settings = self._state, self._settings
        here = time.monotonic() - self._started
        each = settings.batch * settings.sequence
        seconds = self._seconds()
        trained = Trained(
            state.step,
            share,
            state.step * each,
            (state.step - self._begun_at) * each / max(here, 1e-9),
            seconds * (1 - share) / share if share else 0.0,
            loss,
            held.kl if held else None,
            held.perplexity if held else None,
            held.original_perplexity if held else None,
        )
        if held:
            self._folder.log(asdict(trained) | {"agreement": held.agreement, "seconds": round(seconds, 1)})
        self._progress(trained)

    def _save_sometimes(self) -> None:
        now = time.monotonic()
        if self._world.agreed(now - self._saved) >= 60 * self._settings.save_minutes:
            self._save()

    def _save(self) -> None:
        now = time.monotonic()
        self._state.seconds += now - self._started
        self._started = self._saved = now
        self._begun_at = self._state.step
        self._folder.save(self._state, self._student.state_dict(), self._optimiser.state_dict())

    def finish(self) -> Held:
        """The last weights, their mean, or the best before them, the start among these: whichever does best on held-out
        text."""
        self._save()
        state, student = self._state, self._student
        last = {name: value.clone() for name, value in student.state_dict().items()}
        found: list[tuple[float, str, dict[str, Tensor], Held]] = []
        for name, weights in (("last", last), ("mean", state.mean or None), ("best", state.best)):
            if weights is not None:
                student.load_state_dict(weights)
                held = self._held()
                found.append((held.kl, name, weights, held))
        _, name, weights, held = min(found, key=lambda each: each[0])
        student.load_state_dict(weights)
        self._folder.log({"step": state.step, "kept": name, **asdict(held)})
        return held
