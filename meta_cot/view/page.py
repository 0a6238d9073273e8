# SPDX-License-Identifier: Apache-2.0
"""The page: values, script and style in one HTML file that nothing leaves.

Whatever a model wrote stands in one block of JSON, of ASCII letters without
`<`, `>` and `&`, and the script shows it as text. The browser is told to run
and fetch nothing else.
"""

import base64
import hashlib
import importlib.resources
import json
import math
from typing import Any

import jinja2

from meta_cot import version

MAX_TEXT = 20_000  # letters of one text; what is longer is cut
_SCRIPTS = (
    'page', 'charts', 'overview', 'rollouts', 'tokens', 'searches', 'bench')
_ESCAPES = {ord(c): f'\\u{ord(c):04x}' for c in '<>&'}


def render(values: dict[str, Any]) -> str:
  """Makes the page of what `run.read` gives."""
  script = '\n'.join(_file(f'{name}.js') for name in _SCRIPTS)
  style = _file('page.css')
  environment = jinja2.Environment(
      autoescape=True, undefined=jinja2.StrictUndefined)
  return environment.from_string(_file('page.html.jinja')).render(
      policy=(
          f"default-src 'none'; script-src '{_digest(script)}'; style-src "
          f"'{_digest(style)}'; base-uri 'none'; form-action 'none'"),
      title=values['name'], version=version.__version__,
      data=embedded(values), script=script, style=style)


def embedded(value: Any) -> str:
  """Writes JSON that may stand in a script element of HTML."""
  text = json.dumps(_plain(value), separators=(',', ':'), allow_nan=False)
  return text.translate(_ESCAPES)


def _plain(value: Any) -> Any:
  """Values that JSON has: no NaN or infinity, no text without an end."""
  if isinstance(value, dict):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if isinstance(value, str) and len(value) > MAX_TEXT:
    left_out = len(value) - MAX_TEXT
    return f'{value[:MAX_TEXT]}… ({left_out:,} letters more)'
  return value


def _digest(text: str) -> str:
  """How a Content-Security-Policy names a script or style."""
  sha256 = hashlib.sha256(text.encode()).digest()
  return f'sha256-{base64.b64encode(sha256).decode()}'


def _file(name: str) -> str:
  """A file of this package."""
  return (importlib.resources.files('meta_cot.view') / name).read_text()
