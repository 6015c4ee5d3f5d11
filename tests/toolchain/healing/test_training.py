"""What a GPU run uses, as far as a CPU can tell: compiled layers, activations that are computed again, outputs of the
original that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.models import open_model
from support.checkpoints import write_tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mobile_bundle.calibrate.decoder import LayerRunner  # noqa: E402
from mobile_bundle.healing.decoders import Original, _Runner, run_layer  # noqa: E402
from mobile_bundle.healing.kept_states import KeptStates  # noqa: E402
from mobile_bundle.healing.recipe import heal_codecs, heal_recipe  # noqa: E402
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
    original.layer = torch.compile(run_layer, backend=counts[0])
    for layer in student.layers:
        layer.compile(backend=counts[1])
    compiled = gradients()
    assert [count.frame_count for count in counts] == [1, 1]
    for one, two, three in zip(plain, again, compiled, strict=True):
        assert torch.allclose(one, two, atol=1e-6)
        assert torch.allclose(one, three, atol=1e-6)


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_the_original_reads_kept_sequences_once(tmp_path: Path, room: int) -> None:
    with open_model(write_tiny(tmp_path / "m", "llama")) as model:
        original = Original(model, torch.device("cpu"), torch.float32)
    tokens = torch.randint(3, model.spec.vocabulary, (6, 16))
    read: list[int] = []
    real = original.hidden

    def counted(found: torch.Tensor) -> torch.Tensor:
        read.append(len(found))
        return real(found)

    original.hidden = counted  # type: ignore[method-assign]
    states = KeptStates(original, 6, lambda: room)
    for chosen in ([0, 1], [2, 3], [4, 5], [0, 1], [3, 0], [5, 2], [1, 4]):  # the first two before there is room
        found = states.of(np.array(chosen), tokens[chosen])
        assert torch.allclose(found, real(tokens[chosen]), atol=1e-5)
    assert len(read) == (7 if room == 0 else 4)


def test_keys_and_values_are_rounded_as_the_engine_s_cache_rounds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In groups of 32: a large value in one half of a head leaves the other half's scale alone."""
    with open_model(write_tiny(tmp_path / "m", "llama")) as model:
        spec = model.spec
    k = torch.linspace(-1, 1, 64).repeat(1, 1, 3, 1)
    k[..., 0] = 1000.0
    seen: list[torch.Tensor] = []
    runner = _Runner(spec, {}, *(torch.zeros(2, 3, 64) for _ in range(2)), {})
    monkeypatch.setattr(LayerRunner, "attend", lambda self, q, k, v: seen.extend((k, v)))
    runner.attend(k, k, k)
    for rounded in seen:
        assert (rounded[..., 1:32] - k[..., 1:32]).abs().max() > 0.5
        assert (rounded[..., 32:] - k[..., 32:]).abs().max() < 0.005
