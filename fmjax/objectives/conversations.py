"""Conversations as text: a template in Jinja, as published models have one, and what of its text each turn is.

The environment is that of Hugging Face's `apply_chat_template` without `strftime_now`: what is made of a record must
not depend on the day.
"""

import functools
import json

import jinja2
from jinja2 import ext, nodes, sandbox

# ChatML, as OpenAI published it and Qwen and others have it.
CHATML = (
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Generation(ext.Extension):
  """{% generation %}...{% endgeneration %}, which marks the assistant's words in some templates, changes nothing."""

  tags = {"generation"}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
    return nodes.Scope(body, lineno=line)


def refuse(message: str):
  raise jinja2.TemplateError(message)


def as_json(value, **how):
  return json.dumps(value, ensure_ascii=False, **how)


@functools.lru_cache(maxsize=8)
def compiled(text: str) -> jinja2.Template:
  """Raises jinja2.TemplateError where it is no template."""
  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
  )
  environment.filters["tojson"] = as_json
  environment.globals["raise_exception"] = refuse
  return environment.from_string(text)


def rendered(template: str, messages: list[dict], marks: dict[str, str]) -> tuple[str, list[tuple[int, int]]]:
  """(the text of a conversation, the characters [start, stop) of each of the assistant's turns).

  A turn begins where a generation would, and ends with what the template sets after it. `marks` are the texts of
  special tokens, {"bos_token": ...}. Raises jinja2.TemplateError, also where the text of the first turns is not how
  the text of all begins.
  """
  one = functools.partial(compiled(template).render, tools=None, documents=None, **marks)
  whole = one(messages=messages, add_generation_prompt=False)
  turns = []
  for number, message in enumerate(messages):
    if message["role"] != "assistant":
      continue
    before = one(messages=messages[:number], add_generation_prompt=True)
    after = one(messages=messages[: number + 1], add_generation_prompt=False)
    if not (after.startswith(before) and whole.startswith(after)):
      raise jinja2.TemplateError(f"turn {number} reads otherwise once the conversation goes on")
    turns.append((len(before), len(after)))
  return whole, turns
