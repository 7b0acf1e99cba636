"""A child process that renders chats with a chat template, to see that it stays within bounds. See `chat_rendering.py`.

In: JSON on standard input. Out: nothing, or on standard output what the template exceeds; a rendering that takes more
than its CPU time ends the process by SIGXCPU.

Limits: the template is rendered as transformers does it, but for what it raises: that is no matter here, and ends the
check. Source of the names that a template may use: https://huggingface.co/docs/transformers/chat_templating_writing
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rft_ray.grading import sandbox


class _Generation(Extension):
    """`{% generation %}`, which marks an answer for training: its body as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main() -> None:
    """Render the chats of one template."""
    asked = json.load(sys.stdin)
    limits = asked["limits"]
    sandbox.limit_memory(limits["memory_gib"])
    sandbox.limit_cpu(limits["seconds"])  # a template is compiled first, and constants in it are computed then
    try:
        template = _environment().from_string(asked["template"])
        for chat in asked["chats"]:
            sandbox.limit_cpu(limits["seconds"])
            size = 0
            for part in template.generate(**asked["variables"], add_generation_prompt=True, **chat):
                size += len(part)
                if size > limits["characters"]:
                    print(f"writes more than {limits['characters']:,} characters for one prompt")
                    return
    except MemoryError:
        print(f"needs more than {limits['memory_gib']:g} GiB for one prompt")
    except Exception:  # of the template, which transformers raises too
        return


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": _refuse, "strftime_now": datetime.now().strftime}
    environment.filters["tojson"] = _as_json
    return environment


def _refuse(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _as_json(value: Any, **form: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **form})
