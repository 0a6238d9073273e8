# SPDX-License-Identifier: Apache-2.0
r"""Finds the final answer of a free text: boxed, behind ####, or announced."""

import re

_BOX = re.compile(r'\\(?:boxed|fbox)\s*(\{|(?=[^\s{]))')
_MARK = '####'
_ANNOUNCED = re.compile(
    r'\b(?:final\s+)?answer(?:\s+is|\s*:|\s*=)\s*:?\s*', re.IGNORECASE)
# An announced answer ends with its sentence: a dot that no digit follows.
_SENTENCE_END = re.compile(r'\.(?=\s|$)|\n')


def final_answer(text: str) -> str | None:
  r"""Finds the last answer of a text.

  Looked for in this order: the last whole `\boxed{...}`, what stands behind the
  last `####` on its line, what stands behind the last "answer is" or "answer:"
  up to the end of its sentence. Takes time in proportion to the text.

  Returns:
    The answer without the marks, None where the text has none.
  """
  boxed = _last_box(text)
  if boxed is not None:
    return boxed
  place = text.rfind(_MARK)
  if place >= 0:
    return text[place + len(_MARK):].partition('\n')[0].strip() or None
  announced = [match.end() for match in _ANNOUNCED.finditer(text)]
  if not announced:
    return None
  said = _SENTENCE_END.split(text[announced[-1]:], maxsplit=1)[0].strip()
  return said.strip('*').rstrip('.').strip() or None


def _last_box(text: str) -> str | None:
  """The contents of the last box that is closed."""
  closing = _closing(text) if 'box' in text else {}
  found = None
  for match in _BOX.finditer(text):
    if not match[1]:  # \boxed 5
      found = text[match.end()]
    elif match.end() - 1 in closing:
      found = text[match.end():closing[match.end() - 1]]
  return None if found is None else found.strip()


def _closing(text: str) -> dict[int, int]:
  """Where every brace that is closed is closed; an escaped one is none."""
  closing, opened, place = {}, [], 0
  while place < len(text):
    char = text[place]
    if char == '\\':
      place += 1
    elif char == '{':
      opened.append(place)
    elif char == '}' and opened:
      closing[opened.pop()] = place
    place += 1
  return closing
