"""model.pte: an ExecuTorch program whose forward is one delegate, MobileBundleBackend, with the weights in weights.ptd.

forward(tokens int64 (1, n), input_pos int64 (1,)) -> logits float32 (1, vocabulary) of the last token: what the LLM
runner of ExecuTorch calls (extension/llm/runner), with the constant methods that it reads. The program holds no
weights: the delegate finds them as named data in the weights.ptd that is given to the module beside the program.
"""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import InstallationError
from mobile_bundle.files.disk import write_file
from mobile_bundle.models.spec import ModelConfig

NAME = "model.pte"
BACKEND = "MobileBundleBackend"
_PROGRAM = struct.Struct("<4sIII")  # mb_program (runtime/executorch/program.h)
_PROGRAM_VERSION = 1


def export_executorch(directory: Path) -> str:
    """Writes model.pte beside the weights.ptd of `directory`; the version of ExecuTorch that the program is for.

    The bytes depend on the weights' index and the installed ExecuTorch alone. UserError if ExecuTorch is missing."""
    with WeightsReader(directory / "weights.ptd") as weights:
        config, crc = ModelConfig.parse(weights.config), weights.index_crc32
    processed = _PROGRAM.pack(b"MBPR", _PROGRAM_VERSION, crc, config.vocabulary)
    with _quiet():
        try:
            import mobile_bundle.export.executorch_delegate as delegate
        except ImportError as error:
            raise InstallationError(
                f"ExecuTorch is needed ({error})", "pip install '.[executorch]' in a checkout of mobile-bundle"
            ) from error
        program = delegate.lower(processed, config.vocabulary, config.default_context, metadata(config))
    write_file(directory / NAME, program)
    return version("executorch")


def metadata(config: ModelConfig) -> dict[str, Any]:
    """The constant methods that ExecuTorch's LLM runner asks a program for (extension/llm/runner/constants.h)."""
    values: dict[str, Any] = {
        "get_max_seq_len": config.default_context,
        "get_max_context_len": config.default_context,
        "get_vocab_size": config.vocabulary,
        "get_n_layers": config.layers,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": False,
        "enable_dynamic_shape": True,
    }
    if config.bos >= 0:
        values["get_bos_id"] = config.bos
    if config.eos:
        values["get_eos_ids"] = list(config.eos)
    return values


@contextmanager
def _quiet() -> Iterator[None]:
    """ExecuTorch's exporter warns about what it does; none of it concerns a person who builds a bundle."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
