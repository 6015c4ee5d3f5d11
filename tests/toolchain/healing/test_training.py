"""What a GPU run uses, as far as a CPU can tell: compiled layers, activations that are computed again, outputs of the
original that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.models import open_model
from support.checkpoints import write_tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mobile_bundle.calibrate.activations import Int8Runner  # noqa: E402
from mobile_bundle.calibrate.decoder import LayerRunner  # noqa: E402
from mobile_bundle.healing.decoders import Original, run_layer  # noqa: E402
from mobile_bundle.healing.kept_states import KeptStates  # noqa: E402
from mobile_bundle.healing.optimiser import Optimiser  # noqa: E402
from mobile_bundle.healing.recipe import heal_codecs, heal_recipe  # noqa: E402
from mobile_bundle.healing.settings import Settings  # noqa: E402
from mobile_bundle.healing.start import make_student  # noqa: E402
from mobile_bundle.healing.training import Distillation  # noqa: E402


@pytest.mark.parametrize("recipe", ["affine-2bit", "bitnet-1.25bit"])
def test_one_compiled_layer_serves_all_and_changes_nothing(tmp_path: Path, recipe: str) -> None:
    """More graphs than torch's limit would leave the rest uncompiled, without a word."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.manual_seed(0)
    with open_model(write_tiny(tmp_path / "m", "qwen3")) as model:
        assert model.spec.layers > 1
        original = Original(model, torch.device("cpu"), torch.float32)
        codecs = heal_codecs(heal_recipe(recipe), model.spec, model.tensors)
        student = make_student(model, original, codecs, None)
    module = Distillation(student, original)
    tokens = torch.randint(3, model.spec.vocabulary, (2, 24))

    def gradients() -> list[torch.Tensor]:
        student.zero_grad()
        module(tokens, original.hidden(tokens)).backward()
        return [parameter.grad.clone() for parameter in student.parameters()]

    plain = gradients()
    student.checkpointing = True
    again = gradients()
    counts = [CompileCounterWithBackend("aot_eager") for _ in range(2)]
    original.layer = torch.compile(run_layer, backend=counts[0], dynamic=False)
    for layer in student.layers:
        layer.compile(backend=counts[1])
    compiled = gradients()
    assert [count.frame_count for count in counts] == [1, 1]
    for one, two, three in zip(plain, again, compiled, strict=True):
        assert torch.allclose(one, two, atol=1e-6)
        assert torch.allclose(one, three, atol=1e-6)


def test_layers_of_a_kind_share_their_compiled_code(tmp_path: Path) -> None:
    """Gemma 3: five layers with a window, then one that sees everything."""
    from torch._dynamo.testing import CompileCounterWithBackend

    with open_model(write_tiny(tmp_path / "m", "gemma3")) as model:
        original = Original(model, torch.device("cpu"), torch.float32)
    tokens = torch.randint(3, model.spec.vocabulary, (2, 40))
    plain = original.hidden(tokens)
    count = CompileCounterWithBackend("aot_eager")
    original.layer = torch.compile(run_layer, backend=count, dynamic=False)
    assert torch.allclose(original.hidden(tokens), plain, atol=1e-5)
    assert count.frame_count == 2


def test_hidden_states_of_all_layers_count_by_their_weight(tmp_path: Path) -> None:
    with open_model(write_tiny(tmp_path / "m", "llama")) as model:
        original = Original(model, torch.device("cpu"), torch.float32)
        codecs = heal_codecs(heal_recipe("affine-2bit"), model.spec, model.tensors)
        student = make_student(model, original, codecs, None)
    tokens = torch.randint(3, model.spec.vocabulary, (2, 24))
    outputs: list[torch.Tensor] = []
    seen = original.hidden(tokens, outputs)
    assert len(outputs) == model.spec.layers
    plain, both = (Distillation(student, original, 1.0, weight)(tokens, seen, outputs) for weight in (0.0, 2.0))
    own: list[torch.Tensor] = []
    student(tokens, own)
    apart = [((a - b).square().sum(-1) / b.square().sum(-1)).mean() for a, b in zip(own, outputs, strict=True)]
    assert float(both - plain) == pytest.approx(2 * float(sum(apart)) / len(apart), rel=1e-4)
    optimiser = torch.optim.AdamW(student.parameters(), 1e-3)
    for _ in range(10):
        optimiser.zero_grad()
        Distillation(student, original, 1.0, 2.0)(tokens, seen, outputs).backward()
        optimiser.step()
    assert Distillation(student, original, 1.0, 2.0)(tokens, seen, outputs) < both


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    module = torch.nn.Linear(4, 3)
    optimiser = Optimiser(module, 0.1, torch.device("cpu"))
    plain = torch.nn.Linear(4, 3)
    plain.load_state_dict(module.state_dict())
    other = torch.optim.AdamW(plain.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(4):
        for each, linear in enumerate((module, plain)):
            linear.zero_grad()
            (linear(torch.ones(4)) * 10.0).square().sum().backward()
            if each == 0 and step == 2:
                before = [value.clone() for value in module.parameters()]
                module.weight.grad[0, 0] = torch.inf
        optimiser.step(0.01)
        if step == 2:
            assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
            continue
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        other.param_groups[0]["lr"] = 0.01
        other.step()
    assert optimiser.skipped == 1
    for a, b in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


class Counted:
    """An original that has kept nothing yet, and how many sequences it was asked for, call by call."""

    def __init__(self, directory: Path, sequences: int) -> None:
        with open_model(write_tiny(directory / "m", "llama")) as model:
            original = Original(model, torch.device("cpu"), torch.float32)
        self.tokens = torch.randint(3, model.spec.vocabulary, (sequences, 16))
        self.read: list[int] = []
        self.hidden = original.hidden
        self.each = 4 * 16 * original.head.shape[1]  # bytes
        original.hidden = self._counted  # type: ignore[method-assign]
        self.states = KeptStates(original, sequences, 16)

    def _counted(self, tokens: torch.Tensor, outputs: list[torch.Tensor] | None = None) -> torch.Tensor:
        self.read.append(len(tokens))
        return self.hidden(tokens, outputs)

    def ask(self, chosen: Sequence[int]) -> int:
        """How many sequences were computed for these. What comes back is theirs."""
        before = len(self.read)
        found = self.states.of(np.array(chosen), self.tokens[list(chosen)])
        assert torch.allclose(found, self.hidden(self.tokens[list(chosen)]), atol=1e-5)
        return sum(self.read[before:])


@pytest.mark.parametrize(
    ("room", "expected"),  # room: for so many sequences
    [(0, [4, 4, 4, 4, 4, 4]), (3, [4, 4, 4, 4, 4, 1]), (99, [4, 4, 0, 1, 0, 0])],
)
def test_the_original_reads_kept_sequences_once(tmp_path: Path, room: int, expected: list[int]) -> None:
    original = Counted(tmp_path, 9)
    assert original.ask([0, 1, 2, 3]) == 4  # before there is room
    original.states.make_room(room * original.each)
    batches = ([4, 5, 6, 7], [0, 1, 2, 3], [4, 0, 2, 1], [2, 8, 6, 4], [3, 7, 5, 6], [4, 5, 6, 8])
    assert [original.ask(batch) for batch in batches] == expected


def test_what_is_kept_belongs_to_its_sequence(tmp_path: Path) -> None:
    """Whatever part of a batch is missing, in whatever order, and where a sequence comes twice in it."""
    original = Counted(tmp_path, 60)
    original.states.make_room(40 * original.each)
    random = np.random.default_rng(0)
    for known in range(9):
        begin = 6 * known
        original.ask([*range(begin, begin + known), *[begin] * (8 - known)])
        original.ask(random.permutation(range(begin, begin + 8)).tolist())
        original.ask(range(begin, begin + 8))
    assert set(original.read) <= {2, 8}  # compiled for each size


def test_a_sequence_that_comes_twice_takes_one_place(tmp_path: Path) -> None:
    original = Counted(tmp_path, 6)
    original.states.make_room(6 * original.each)
    original.ask([0, 0, 1, 1, 2, 2, 3, 3])
    original.ask([4, 4, 4, 4, 5, 5, 5, 5])
    assert original.ask(range(6)) == 0


def test_keys_and_values_are_rounded_as_the_engine_s_cache_rounds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries, too, in groups of 32: a large value in one half of a head leaves the other half's scale alone. Scales of
    the cache are fp16."""
    with open_model(write_tiny(tmp_path / "m", "llama")) as model:
        spec = model.spec
    k = torch.linspace(-1, 1, 64).repeat(1, 1, 3, 1)
    k[..., 0] = 1000.0
    seen: list[torch.Tensor] = []
    runner = Int8Runner({}, spec, {}, *(torch.zeros(2, 3, 64) for _ in range(2)), 0)
    monkeypatch.setattr(LayerRunner, "attend", lambda self, q, k, v: seen.extend((q, k, v)))
    runner.attend(k, k, k)
    for rounded in seen:
        assert (rounded[..., 1:32] - k[..., 1:32]).abs().max() > 0.5
        assert (rounded[..., 32:] - k[..., 32:]).abs().max() < 0.005
    step = np.float32(1 / 127)
    assert seen[0][..., 63].unique().tolist() == pytest.approx([127 * step], rel=1e-6)
    for cached in seen[1:]:
        assert cached[..., 63].unique().tolist() == [127 * float(np.float16(step))]


def test_a_gpu_trains_on_sequences_of_the_length_of_use_with_as_many_tokens_a_step() -> None:
    found = [Settings(device="cuda", sequence=sequence).resolved(8192) for sequence in (0, 512, 2048)]
    assert [each.sequence for each in found] == [1024, 512, 2048]
    assert {each.sequence * each.batch for each in found} == {24_576}
    assert Settings(device="cuda").resolved(768).sequence == 768  # what the model can have
