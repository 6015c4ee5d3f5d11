"""The child process that a chat template runs in: compiles it, and renders the conversations of the proof.

One JSON object comes on standard input: source, constants, now (ISO 8601). One goes out: either `error`, or `section`
and `texts` (base64), `variables`, `thinking` (the variable's name or null) and `renderings`, a list of `messages`,
`thinking` and either `text` or `error`.
"""

from __future__ import annotations

import base64
import datetime
import json
import resource
import sys
from typing import Any

import jinja2.meta

from mobile_bundle.chat_template.compiler import compile_tree, thinking_variable
from mobile_bundle.chat_template.environment import make_environment, render
from mobile_bundle.chat_template.probes import make_probes
from mobile_bundle.chat_template.program import TooLarge

CPU_SECONDS = 3
MEMORY_BYTES = 512 << 20
_MOST_OUTPUT = 16 << 20  # characters of all renderings


def _limit() -> None:
    for kind, limit in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError):  # a lower limit is set already, or the system has none of this kind
            continue


def _examine(job: dict[str, Any]) -> dict[str, Any]:
    environment = make_environment(datetime.datetime.fromisoformat(job["now"]))
    constants = job["constants"]
    tree = environment.parse(job["source"])
    variables = jinja2.meta.find_undeclared_variables(tree)
    thinking = thinking_variable(variables)
    if thinking in constants:
        thinking = None
    program = compile_tree(tree, variables, constants)
    template = environment.from_string(job["source"])
    renderings, size = [], 0
    for probe in make_probes(tree, thinking is not None):
        rendering: dict[str, Any] = {"messages": probe.messages, "thinking": probe.thinking}
        asked = {thinking: probe.thinking} if thinking and probe.thinking is not None else {}
        try:
            rendering["text"] = render(template, probe.messages, {**constants, **asked})
            size += len(rendering["text"])
        except MemoryError:
            raise
        except Exception as error:  # whatever a foreign program may raise
            rendering["error"] = _describe(error)
        if size > _MOST_OUTPUT:
            return {"error": "it writes more than a model can read"}
        renderings.append(rendering)
    section, texts = program.sections()
    return {
        "section": base64.b64encode(section).decode(),
        "texts": base64.b64encode(texts).decode(),
        "variables": sorted(variables),
        "thinking": thinking,
        "renderings": renderings,
    }


def _describe(error: Exception) -> str:
    """One line, and valid Unicode."""
    words = str(error) if type(error) is jinja2.TemplateError else f"{type(error).__name__}: {error}"
    return " ".join(words.encode(errors="replace").decode().split())[:300]


def main() -> int:
    """Entry point; the answer says what went wrong, unless a limit ends the process."""
    job = json.load(sys.stdin)
    _limit()
    try:
        answer = _examine(job)
    except MemoryError:
        answer = {"error": f"it takes more than {MEMORY_BYTES >> 20} MB of memory"}
    except RecursionError:
        answer = {"error": "it is nested too deep"}
    except UnicodeEncodeError:
        answer = {"error": "it has half a surrogate pair in it, which is no character"}
    except TooLarge as error:
        answer = {"error": str(error)}
    except Exception as error:  # a syntax error, or whatever a foreign program may raise
        answer = {"error": _describe(error)}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
