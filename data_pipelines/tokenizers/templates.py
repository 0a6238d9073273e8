# SPDX-License-Identifier: Apache-2.0
"""Chat templates of checkpoints: what they write around a question.

A template is a program (Jinja2) that comes with a checkpoint: it runs in a
sandbox, once, with a mark in the place of the question. So no question is ever
read as a part of the template.
"""

from collections.abc import Mapping
import json
from typing import Any, NamedTuple

from etils import epath

from meta_cot.settings import config as config_lib

FILE = 'chat_template.jinja'
_MARK = '\ue000question\ue000'


class Template(NamedTuple):
  """A chat template, and the texts of tokens that it may name."""

  text: str
  tokens: Mapping[str, str]  # bos_token and so on


def of_checkpoint(
    folder: epath.Path, told: Mapping[str, Any]) -> Template | None:
  """Finds the template of a checkpoint's folder; None: it has none.

  Args:
    folder: of the checkpoint.
    told: tokenizer_config.json.
  """
  text = told.get('chat_template')
  if isinstance(text, list):  # several, by name
    text = {entry['name']: entry['template'] for entry in text}.get('default')
  if (folder / FILE).is_file():
    text = (folder / FILE).read_text()
  return None if text is None else Template(text, tokens(told))


def tokens(told: Mapping[str, Any]) -> dict[str, str]:
  """Lists the tokens that tokenizer_config.json names, as texts."""
  found = {}
  for name, value in told.items():
    value = value.get('content') if isinstance(value, Mapping) else value
    if name.endswith('_token') and isinstance(value, str):
      found[name] = value
  return found


def around(template: Template) -> tuple[str, str]:
  """Renders what stands before a user's question, and behind it.

  Raises:
    ValueError: the template fails, or does not write the question once.
    UserError: the package jinja2 is missing.
  """
  try:
    import jinja2
    from jinja2 import sandbox
  except ImportError as e:
    raise config_lib.UserError(
        "a chat template needs the package jinja2; pip install 'meta-cot[hf]'."
    ) from e
  environment = sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True)
  environment.filters['tojson'] = json.dumps
  environment.globals['raise_exception'] = _refuse
  try:
    text = environment.from_string(template.text).render(
        messages=[dict(role='user', content=_MARK)],
        add_generation_prompt=True, **template.tokens)
  except (jinja2.TemplateError, TypeError, KeyError) as e:
    raise ValueError(
        f'chat template: {" ".join(str(e).split())[:200]}') from e
  before, mark, after = text.partition(_MARK)
  if not mark or _MARK in after:
    raise ValueError('chat template: it does not write the question once')
  return before, after


def _refuse(message: str) -> None:
  raise ValueError(f'chat template: {message}')
