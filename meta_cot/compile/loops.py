# SPDX-License-Identifier: Apache-2.0
"""How often the while loops of a compiled program run.

Scalars are read as linear forms: a constant, and a factor of each element of
the loop state around them, by its number.
"""

import collections
from collections.abc import Callable
import functools
import re

from meta_cot.compile import hlo

_CONSTANT = -1  # in the place of an element's number
_SAME = ('copy', 'bitcast', 'copy-start', 'copy-done', 'convert')


class _UnknownError(Exception):
  """A scalar that is not a linear form, or an element without a value."""


def trip_count(loop: hlo.Instruction) -> int:
  """How often a while loop runs at most; 0 where that cannot be read.

  It is read from a condition `a < b` (alone or with others behind an `and`)
  whose sides are sums of constants and of counters with a constant step. An
  early end that depends on data is not foreseen.
  """
  condition, = loop.called('condition')
  for comparison, outer in _comparisons(condition):
    try:
      left, room = (_linear(n, outer) for n in comparison.operands)
      room.subtract(left)
      first = _value(room, functools.partial(_start, loop))
      step = _value(
          room, functools.partial(_step, loop)) - room[_CONSTANT]
    except _UnknownError:
      continue
    if step < 0:
      return max(0, -(-first // -step))
  return 0


def _unknown(index: int):
  raise _UnknownError(index)


def _comparisons(computation, outer=_unknown):
  """Every `a < b` of a loop's condition, with what its parameters are."""
  for instruction in computation.instructions.values():
    if (instruction.opcode == 'compare'
        and 'direction=LT' in instruction.attributes):
      yield instruction, outer
    elif instruction.opcode == 'fusion' and outer is _unknown:
      inner, = instruction.called('calls')
      yield from _comparisons(inner, _arguments(instruction, outer))


def _arguments(fusion, outer) -> Callable[[int], collections.Counter]:
  """The forms of the parameters of a fused computation, by number."""
  return lambda number: _linear(fusion.operands[number], outer)


def _linear(instruction, outer=_unknown) -> collections.Counter:
  """The linear form of a scalar; `outer` as of `_arguments`."""
  opcode, operands = instruction.opcode, instruction.operands
  if opcode == 'constant' and re.fullmatch(r'-?\d+', instruction.literal):
    return collections.Counter({_CONSTANT: int(instruction.literal)})
  if opcode in _SAME:
    return _linear(operands[0], outer)
  if opcode == 'parameter':
    return outer(int(instruction.literal))
  if opcode in ('add', 'subtract'):
    left, right = (_linear(n, outer) for n in operands)
    (left.update if opcode == 'add' else left.subtract)(right)
    return left
  if opcode == 'get-tuple-element':
    return _element(operands[0], int(instruction.find(r'index=(\d+)')))
  if opcode == 'fusion':
    inner, = instruction.called('calls')
    return _linear(inner.root, _arguments(instruction, outer))
  raise _UnknownError(opcode)


def _element(source, index: int) -> collections.Counter:
  """An element of a tuple, of the loop state, or of a loop that has ended."""
  if source.opcode == 'parameter':
    return collections.Counter({index: 1})
  if source.opcode == 'tuple':
    return _linear(source.operands[index])
  if source.opcode == 'while':
    return collections.Counter({_CONSTANT: _end(source, index)})
  raise _UnknownError(source.opcode)


def _value(form: collections.Counter, of: Callable[[int], int]) -> int:
  """The value of a form where element i has the value of(i)."""
  return form[_CONSTANT] + sum(
      factor * of(i) for i, factor in form.items() if factor and i >= 0)


def _start(loop, index: int) -> int:
  """The first value of an element of the loop state."""
  return _value(_element(loop.operands[0], index), _unknown)


def _next(loop, index: int) -> collections.Counter:
  """An element after a turn, from the elements before it."""
  body, = loop.called('body')
  return _element(body.root, index)


def _step(loop, index: int) -> int:
  """What one turn adds to an element; 0 if it stays as it is."""
  form = _next(loop, index)
  form[index] -= 1
  return _value(form, _unknown)


def _end(loop, index: int) -> int:
  """The value of an element when the loop has run as often as it can."""
  turns = trip_count(loop)
  if not turns:
    raise _UnknownError(index)
  return _value(
      _next(loop, index),
      lambda i: _start(loop, i) + (turns - 1) * _step(loop, i))
