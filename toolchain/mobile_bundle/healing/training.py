"""The training loop: distillation of the whole model.

AdamW (0.9, 0.95) without decay, gradient norm 1, warm-up and cosine to 2 %, float32 master weights, bf16 on a GPU. At
the end a mean of the last weights is taken where it does better on held-out text."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from mobile_bundle.errors import NotFinite
from mobile_bundle.healing.decoders import Original, Student
from mobile_bundle.healing.divergence import Slope, distance, divergence, divergence_and_slope
from mobile_bundle.healing.evaluation import Held, evaluate_held
from mobile_bundle.healing.gradients import Gradients
from mobile_bundle.healing.kept_states import KeptStates, free_memory
from mobile_bundle.healing.matrix import Matrix
from mobile_bundle.healing.mixture import Mixture, Tokens
from mobile_bundle.healing.optimiser import Optimiser
from mobile_bundle.healing.progress import Trained
from mobile_bundle.healing.settings import Settings
from mobile_bundle.healing.sharding import gathered, spread, spread_optimiser
from mobile_bundle.healing.state import Mean, RunFolder, RunState
from mobile_bundle.healing.world import World, bf16_products

_LOWEST_RATE = 0.02
_SHORT_RUN = 10
"""The warm-up takes at most 1 / _SHORT_RUN of a run."""
_END_AT_MOST = 0.5
"""Part of `minutes` that the evaluations at the end may take away from training."""
_STEPS_UNASKED = 8
"""That a GPU works through between two questions of the processor."""
_SECONDS = 2.0
"""Between two words on a GPU's progress."""


class Distillation(nn.Module):
    """The student and its loss, as one module that several processes train together. temperature: of the divergence;
    hidden_states: weight of the distance of the layers' outputs; slope_of: divergence_and_slope, or that compiled."""

    def __init__(
        self,
        student: Student,
        original: Original,
        temperature: float = 1.0,
        hidden_states: float = 0.0,
        slope_of: Slope = divergence_and_slope,
    ) -> None:
        super().__init__()
        self.student = student
        self._head, self._cap = [original.head], original.spec.logit_cap
        self._temperature, self._hidden_states, self._slope_of = temperature, hidden_states, slope_of

    def forward(self, tokens: Tensor, x_original: Tensor, outputs_original: list[Tensor] | None = None) -> Tensor:
        """Mean KL of the next-token distributions; with a weight of hidden states, their mean distance as well.
        x_original: what the original's head sees of the tokens; outputs_original: what its layers give."""
        outputs: list[Tensor] | None = [] if self._hidden_states else None
        x, head = self.student(tokens, outputs)
        loss = divergence(x, head, x_original, self._head[0], self._cap, self._temperature, self._slope_of)
        if outputs is not None and outputs_original is not None:
            apart = [distance(own, other) for own, other in zip(outputs, outputs_original, strict=True)]
            loss = loss + self._hidden_states * torch.stack(apart).mean()
        return loss


def _shard(value: Tensor) -> Tensor:
    """What of it lies on this device."""
    return value.to_local() if isinstance(value, DTensor) else value


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
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._student, self._original, self._mixture, self._windows = student, original, mixture, windows
        self._settings, self._world, self._folder, self._progress = settings, world, folder, progress
        self._cuda = world.device.type == "cuda"
        student.checkpointing = settings.checkpointing
        self._optimiser = Optimiser(student, settings.rate, world.device)
        self._state = RunState()
        saved = folder.load(torch.device("cpu") if settings.shard else world.device)  # whole, it may exceed a card
        if saved is not None:
            self._state, weights, optimiser = saved
            self._state.best = None if self._state.best is None else spread(self._state.best, student)
            self._state.means = {
                part: Mean(mean.count, spread(mean.weights, student))
                for part, mean in self._state.means.items()
                if part in settings.average_shares
            }
            student.load_state_dict(spread(weights, student))
            self._optimiser.adam.load_state_dict(spread_optimiser(optimiser, self._optimiser.adam))
        if self._state.codes_fixed:
            self._fix_codes(True)
        folder.rewind_log(self._state.step)
        slope_of = torch.compile(divergence_and_slope) if settings.compile else divergence_and_slope
        module = Distillation(student, original, settings.temperature, settings.hidden_states, slope_of)
        recorded = settings.graph and not settings.shard
        alone = world.size == 1 or recorded or settings.shard
        shared = module if alone else DistributedDataParallel(module)
        self._gradients = Gradients(shared, world.device, recorded, lambda: student.int8, tell)
        self._averaged = recorded
        self._share_now = 0.0
        self._told = -math.inf
        self._seen_held: list[Tensor] = []
        self._states = KeptStates(original, len(mixture), settings.sequence)
        self._begun_at = self._state.step
        self._started = time.monotonic()
        self._saved = self._started

    @property
    def student(self) -> Student:
        """That is trained."""
        return self._student

    @property
    def tokens(self) -> int:
        """Trained on so far, those read twice counted twice."""
        return self._state.step * self._settings.batch * self._settings.sequence

    def take(self, weights: dict[str, Tensor], read: int) -> None:
        """Before the run: the calibrated code as a start. read: sequences, the first of the mixture, that it was
        calibrated on. It does better on them than elsewhere, so training begins behind them.

        Its codes stay: they lean on each other, and training with the rounding in place breaks that first (wiki-6m
        diverged). Scales, offsets and vectors alone make it better, as in EfficientQAT's second phase (Chen et al.
        2024, arXiv:2407.11062)."""
        self._student.load_state_dict(weights)
        self._state.codes_fixed, self._state.skipped = True, read
        self._fix_codes(False)

    def offer(self, weights: dict[str, Tensor], read: int) -> bool:
        """take, where the calibrated code does better on held-out text than what the student holds. Returns whether it
        does."""
        own = {name: value.clone() for name, value in self._student.state_dict().items()}
        before = self._held()
        self._student.load_state_dict(weights)
        after = self._held()
        taken = after.kl < before.kl
        if taken:
            self.take(weights, read)
        else:
            self._student.load_state_dict(own)
        self._begin(after if taken else before)
        return taken

    def _fix_codes(self, given: bool) -> None:
        for module in self._student.modules():
            if isinstance(module, Matrix):
                module.fix_codes(given)

    def run(self) -> Held:
        """Trains to the end and leaves the best weights in the student. Returns what they do on held-out text.

        NotFinite when the gradient is not finite; a checkpoint of the last good state is kept then."""
        share = self._share(True)
        if self._state.best is None:  # training must not leave it worse than it was
            self._begin(self._held())
        roomy = False
        while share < 1.0:
            loss = self._step(share)
            self._state.step += 1
            if not roomy:  # what training itself needs is there now, but for the end's weights
                self._states.make_room(free_memory(self._world.device) - self._needed_at_the_end())
                roomy = True
            asked = self._asked()
            if asked:
                self._stop_if_diverged()
            share = self._share(asked)
            self._average(share)
            held = None
            if share >= (self._state.evaluated + 1) / self._settings.evaluations:
                self._state.evaluated = max(self._state.evaluated + 1, int(share * self._settings.evaluations))
                held = self._held()
                self._judge(held)
            self._tell(share, loss, held)
            if self._state.worse >= self._settings.patience:
                break
            if asked:
                self._save_sometimes()
        self._stop_if_diverged()
        return self.finish()

    def _asked(self) -> bool:
        """Whether the processor may wait for the device, and the processes for each other, after this step."""
        return not self._cuda or self._state.step % _STEPS_UNASKED == 0

    def _share(self, ask: bool) -> float:
        """Of the run that is done. The same in all processes: by the first one's clock. ask: whether to read it."""
        settings, found = self._settings, 0.0
        if settings.tokens is not None:
            found = self._state.step / max(1, math.ceil(settings.tokens / (settings.batch * settings.sequence)))
        if settings.minutes is not None and ask:
            allowed = 60 * settings.minutes
            allowed -= min(self._seconds_at_the_end(), _END_AT_MOST * allowed)
            self._share_now = max(self._share_now, self._world.agreed(self._seconds() / allowed))
        return min(1.0, max(found, self._share_now))

    def _seconds_at_the_end(self) -> float:
        """The held-out text is read behind the last step, and in `finish` with the last weights, each of their means
        and the best. By the shortest reading: a single slow one must not end the run."""
        return (len(self._settings.average_shares) + 3) * self._state.evaluation_seconds

    def _seconds(self) -> float:
        """Of training, over all runs that this one goes on from."""
        return self._state.seconds + time.monotonic() - self._started

    def _step(self, share: float) -> Tensor:
        """One step of the optimiser. Returns the loss, on the device."""
        settings = self._settings
        warmup = settings.warmup
        if settings.tokens is not None:
            warmup = min(warmup, max(1, settings.tokens // (settings.batch * settings.sequence) // _SHORT_RUN))
        rate = settings.rate * min(1.0, (self._state.step + 1) / warmup)
        rate *= _LOWEST_RATE + (1 - _LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * share))
        self._student.int8 = share >= 1 - settings.int8_share
        if settings.anneal_share:
            self._student.soften(max(0.0, 1 - share / settings.anneal_share))
        self._gradients.clear()
        total = torch.zeros((), device=self._world.device)
        for chosen, tokens, part, last in self._parts():
            with bf16_products(self._world.device):
                seen, outputs = self._seen(chosen, tokens)
            total += self._gradients.add(tokens, seen, outputs, part, last)
        self._world.average([total])  # they read different sources
        if self._averaged:
            self._world.average([each.grad for each in self._student.parameters() if each.grad is not None])
        self._optimiser.step(rate)
        return total

    def _stop_if_diverged(self) -> None:
        """Steps whose gradient was not finite changed nothing (Optimiser): what is there is the last good state."""
        if self._optimiser.skipped:
            self._save()
            raise NotFinite(
                f"the gradient of step {self._state.step} is not finite: training diverged",
                f"lower `rate`; the same command goes on from the last good state in {self._folder.path}",
            )

    def _seen(self, chosen: NDArray[np.int64], tokens: Tensor) -> tuple[Tensor, list[Tensor] | None]:
        """What the original's head and, where they count, its layers give for the sequences of these numbers."""
        if not self._settings.hidden_states:
            return self._states.of(chosen, tokens), None
        outputs: list[Tensor] = []
        return self._original.hidden(tokens, outputs), outputs

    def _parts(self) -> Iterator[tuple[NDArray[np.int64], Tensor, float, bool]]:
        """What this process reads of a step's batch: (which sequences, their tokens, their part of this process's
        share, whether they are the last)."""
        settings, world = self._settings, self._world
        begin = self._state.skipped + self._state.step * settings.batch
        # sorted: where several processes share a step, a sequence mostly comes to the process that has kept it
        step = np.sort(self._mixture.chosen(begin, begin + settings.batch))
        own = settings.batch // world.size
        for first in range(0, own, settings.micro_batch):
            count = min(settings.micro_batch, own - first)
            chosen = step[world.rank * own + first :][:count]
            tokens = torch.from_numpy(self._mixture.read(chosen).astype("int64"))
            if self._cuda:
                tokens = tokens.pin_memory().to(world.device, non_blocking=True)
            yield chosen, tokens, count / own, first + count == own

    @torch.no_grad()
    def _average(self, share: float) -> None:
        means = self._state.means
        for part in self._settings.average_shares:
            if share <= 1 - part:
                continue
            weights = self._student.state_dict()
            if part not in means:
                means[part] = Mean(1, {name: value.clone() for name, value in weights.items()})
                continue
            means[part].count += 1
            own, new = ([_shard(each[name]) for name in weights] for each in (means[part].weights, weights))
            torch._foreach_lerp_(own, new, 1 / means[part].count)

    def _begin(self, held: Held) -> None:
        self._judge(held)
        self._tell(self._share(True), torch.tensor(held.kl), held)

    def _judge(self, held: Held) -> None:
        """Keeps the student if none before it did better."""
        state = self._state
        if held.kl < state.best_kl:
            state.best_kl, state.worse = held.kl, 0
            state.best = {name: value.clone() for name, value in self._student.state_dict().items()}
        else:
            state.worse += 1

    def _needed_at_the_end(self) -> int:
        """Bytes of the weights' means that are not there yet, and of the last weights, which are kept beside them."""
        weights = [_shard(value) for value in self._student.state_dict().values()]
        copies = len(self._settings.average_shares) - len(self._state.means) + 1
        return copies * sum(value.numel() * value.element_size() for value in weights)

    def _held(self) -> Held:
        """The same KL in all processes: it decides."""
        begun, first = time.monotonic(), not self._seen_held
        self._student.soften(0.0)
        held = evaluate_held(
            self._student,
            self._original,
            self._windows,
            self._settings.micro_batch,
            self._settings.int8_share > 0,
            self._seen_held,
        )
        if not first:  # in which the original reads the text, too
            took, before = time.monotonic() - begun, self._state.evaluation_seconds
            self._state.evaluation_seconds = min(took, before or took)
        return replace(held, kl=self._world.agreed(held.kl))

    def _tell(self, share: float, loss: Tensor, held: Held | None) -> None:
        """On a GPU at most once in _SECONDS, because it waits for the loss."""
        state, settings = self._state, self._settings
        if self._cuda and held is None and time.monotonic() - self._told < _SECONDS:
            return
        self._told = time.monotonic()
        here = time.monotonic() - self._started
        each = settings.batch * settings.sequence
        seconds = self._seconds()
        trained = Trained(
            state.step,
            share,
            state.step * each,
            (state.step - self._begun_at) * each / max(here, 1e-9),
            seconds * (1 - share) / share if share else 0.0,
            float(loss),
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
        means = {part: Mean(mean.count, gathered(mean.weights)) for part, mean in self._state.means.items()}
        self._folder.save(
            replace(self._state, best=gathered(self._state.best), means=means),
            gathered(self._student.state_dict()),
            gathered(self._optimiser.adam.state_dict()),
        )

    def finish(self) -> Held:
        """The last weights, their means, or the best before them, the start among these: whichever does best on
        held-out text."""
        self._save()
        state, student = self._state, self._student
        last = {name: value.clone() for name, value in student.state_dict().items()}
        found: list[tuple[float, str, dict[str, Tensor], Held]] = []
        means = [(f"mean over {part}", mean.weights) for part, mean in state.means.items()]
        for name, weights in (("last", last), *means, ("best", state.best)):
            if weights is not None:
                student.load_state_dict(weights)
                held = self._held()
                found.append((held.kl, name, weights, held))
        _, name, weights, held = min(found, key=lambda each: each[0])
        student.load_state_dict(weights)
        self._folder.log({"step": state.step, "kept": name, **asdict(held)})
        return held
