"""Token ids of conversations: transformers' and ours."""

from __future__ import annotations

from typing import Any

from support.tokenizer_library import Tokenizer, TokenizerError


def expected_tokens(reference: Any, messages: list[tuple[str, str]], **options: Any) -> list[int] | None:
    """transformers' own; None: the template refuses the conversation."""
    goes_on = messages[-1][0] == "assistant"
    try:
        ids: list[int] = reference.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            return_dict=False,
            **options,
        )
    except Exception:  # TemplateError, UndefinedError, and ValueError of transformers itself
        return None
    return ids


def tokens(ours: Tokenizer, messages: list[tuple[str, str]], **options: Any) -> list[int] | None:
    """The runtime's; None: it refuses the conversation as the template does."""
    try:
        return ours.encode(ours.chat(messages, **options))
    except TokenizerError as error:
        if "cannot do exactly" in str(error):
            raise
        return None
