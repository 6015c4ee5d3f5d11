"""Chat templates: Jinja programs that come with a model, compiled for a phone that has no Jinja.

`compile_chat_template` gives what tokenizer.bin holds. What foreign code can reach runs in a child process (`worker`).
"""
