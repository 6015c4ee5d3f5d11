"""What is known of the families beside how they are read: for `mobile-bundle models`."""

from __future__ import annotations

from dataclasses import dataclass

from mobile_bundle.models.gguf.config import ARCHITECTURES as GGUF

_CLASS = "logits compared with transformers' own class, random weights, scaled-down configuration"


@dataclass(frozen=True)
class Family:
    """name: for people. tested: what its results were compared with. published: whether a published checkpoint of it
    was run here."""

    name: str
    architecture: str
    tested: str = _CLASS
    published: bool = False

    @property
    def gguf(self) -> bool:
        """Whether GGUF files of it are read. (Mistral is "llama" there, Granite 4 without Mamba "granite".)"""
        return self.architecture in {*GGUF.values(), "MistralForCausalLM", "GraniteMoeHybridForCausalLM"}

    @property
    def formats(self) -> tuple[str, ...]:
        """Of export/formats.py's FORMATS: both programs are the engine itself, so every family has all."""
        return ("native", "executorch", "onnx")


FAMILIES = (
    Family("Llama, SmolLM, TinyLlama, Falcon-E", "LlamaForCausalLM", published=True),
    Family("Mistral", "MistralForCausalLM"),
    Family("Qwen2, Qwen2.5", "Qwen2ForCausalLM"),
    Family("Qwen3, Bonsai", "Qwen3ForCausalLM"),
    Family("BitNet b1.58", "BitNetForCausalLM"),
    Family("BitNet b1.58, 1bitLLM's", "BitnetForCausalLM", "compared with transformers' BitNet under its names"),
    Family("Gemma 3", "Gemma3ForCausalLM"),
    Family("Gemma 2", "Gemma2ForCausalLM"),
    Family("LFM2, LFM2.5", "Lfm2ForCausalLM"),
    Family("Granite 3 (dense)", "GraniteForCausalLM"),
    Family("Granite 4 (dense)", "GraniteMoeHybridForCausalLM"),
    Family("MiniCPM", "MiniCPMForCausalLM", "compared with Granite under its factors: transformers has no class of it"),
    Family("SmolLM3", "SmolLM3ForCausalLM"),
    Family("ERNIE 4.5 (dense)", "Ernie4_5ForCausalLM"),
    Family("OLMo 2", "Olmo2ForCausalLM"),
    Family("EXAONE 4", "Exaone4ForCausalLM"),
    Family("Hunyuan (dense)", "HunYuanDenseV1ForCausalLM"),
    Family("Phi-3, Phi-4-mini", "Phi3ForCausalLM"),
)
