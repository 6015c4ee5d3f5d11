"""A checkpoint with the tokens that some texts need, and no others."""

from mobile_bundle.vocabulary.checkpoint import Reduction, smaller_checkpoint, smaller_tokenizer

__all__ = ["Reduction", "smaller_checkpoint", "smaller_tokenizer"]
