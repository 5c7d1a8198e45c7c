"""The chat template as `transformers` renders it, and where a checkpoint lives."""

import json
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent
CHECKPOINT = HERE.parent.parent / "config" / "models" / "ember"


def template(path=HERE / "chat_template.jinja"):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    return environment.from_string(path.read_text())


def prompt(compiled, sample):
    """The text that the model continues."""
    extra = {"enable_thinking": True} if sample.thinking else {}
    return compiled.render(messages=sample.messages, tools=sample.tools, add_generation_prompt=True, **extra)
