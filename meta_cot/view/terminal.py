# SPDX-License-Identifier: Apache-2.0
"""A search as lines of a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any
import unicodedata

_LONGEST = 60  # letters of a step and its state
_MOST = 200  # nodes, besides those of the solution
_GREEN, _RED, _GREY, _BOLD = '32', '31', '90', '1'
_HIDDEN = ('Cc', 'Cf', 'Cs', 'Co', 'Cn', 'Zl', 'Zp')  # kinds of letters


def visible(text: str) -> str:
  """Writes letters that cannot be seen, or move others, as their numbers."""
  return ''.join(
      f'⟨{ord(c):04x}⟩' if unicodedata.category(c) in _HIDDEN else c
      for c in text)


def draw(tree: Mapping[str, Any], *, has_color: bool) -> list[str]:
  """Draws a tree as `searches.tree` has it: one line for every node.

  A node says its step and state, `#3` where it was the third to be expanded,
  what was known of it, and how it ended. Of a large tree the first nodes and
  the solution are drawn.
  """
  paint = lambda text, *codes: (
      f'\x1b[{";".join(codes)}m{text}\x1b[0m' if has_color and codes else text)
  children, solution = {}, set(tree['solution'])
  shown = {i for i in range(len(tree['parent']))
           if i < _MOST or i in solution}
  for i, parent in enumerate(tree['parent']):
    if i in shown and (parent < 0 or parent in shown):
      children.setdefault(parent, []).append(i)
  lines, pending = [], [(0, '', '')]
  while pending:  # depth first; a stack, since trees can be deep
    i, first, rest = pending.pop()
    codes = (_BOLD, _GREEN) if i in solution else (
        (_RED,) if tree['is_terminal'][i] else ())
    about = _about(tree, i)
    lines.append(
        f'{paint(first, _GREY) if first else ""}'
        f'{paint(_label(tree, i), *codes)}'
        f'{"  " + paint(about, _GREY) if about else ""}')
    mine = children.get(i, [])
    for child in reversed(mine):
      is_last = child == mine[-1]
      pending.append((
          child, rest + ('└─ ' if is_last else '├─ '),
          rest + ('   ' if is_last else '│  ')))
  left_out = len(tree['parent']) - len(lines)
  return lines + [f'({left_out} more nodes)'] * (left_out > 0)


def _label(tree, i: int) -> str:
  state = tree['state'][i]
  words = [tree['step'][i] or '·'] + [f'{{{state}}}'] * bool(
      state and not tree['is_terminal'][i])
  text = visible(' '.join(' '.join(words).split()))
  return text if len(text) <= _LONGEST else f'{text[:_LONGEST - 1]}…'


def _about(tree, i: int) -> str:
  """What is known of a node."""
  order, visits = tree['order'][i], tree['visits'][i]
  value, log_prob = tree['value'][i], tree['log_prob'][i]
  words = [
      f'#{order + 1}' if order >= 0 else '',
      f'{visits} visits' if visits else '',
      '' if value is None or not i else f'value {value:.2f}',
      '' if log_prob is None or not i else f'log p {log_prob:.2f}',
      'right' if tree['is_correct'][i] else
      'dead end' if tree['is_terminal'][i] else '']
  return ' '.join(filter(None, words))


def summary(found: Mapping[str, Any], names: Sequence[str]) -> str:
  """Says in one line what came of a question; `names` are keys of it."""
  return ', '.join(
      f'{name.replace("_", " ")} {found[name]:g}' for name in names
      if found[name] is not None)
