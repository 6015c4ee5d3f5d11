"""What a GPU run uses, as far as a CPU can tell: compiled layers and activations that are computed again."""

from __future__ import annotations

from pathlib import Path

import pytest
from mobile_bundle.models import open_model
from support.checkpoints import write_tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mobile_bundle.healing.decoders import Original, run_layer  # noqa: E402
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
