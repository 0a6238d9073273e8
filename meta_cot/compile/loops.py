# SPDX-License-Identifier: Apache-2.0
"""How often the while loops of a compiled program run."""

import collections
import dataclasses
import re

from meta_cot.compile import hlo

_SAME = ('copy', 'bitcast', 'copy-start', 'copy-done', 'convert')


@dataclasses.dataclass(frozen=True)
class _Linear:
  """constant + sum of factor x element of the loop state around it."""

  constant: int
  factors: tuple[tuple[int, int], ...] = ()  # (element, factor), sorted

  def plus(self, other: '_Linear', sign: int) -> '_Linear':
    factors = collections.Counter(dict(self.factors))
    for element, factor in other.factors:
      factors[element] += sign * factor
    return _Linear(
        self.constant + sign * other.constant,
        tuple(sorted((e, f) for e, f in factors.items() if f)))


def trip_count(
    module: hlo.Module, parent: hlo.Computation, loop: hlo.Instruction
) -> int:
  """How often a while loop runs at most; 0 where that cannot be read.

  It is read from a condition `a < b` (alone or with others behind an `and`)
  whose sides are sums of constants and of counters with a constant step. An
  early end that depends on data is not foreseen.

  Args:
    module: the program.
    parent: the computation that the loop stands in.
    loop: an instruction with opcode 'while'.
  """
  condition = module.computations[loop.called('condition')]
  for left, right in _comparisons(module, condition):
    if left is None or right is None:
      continue
    room = right.plus(left, -1)
    first, step = room.constant, 0
    for element, factor in room.factors:
      start = _start(module, parent, loop, element)
      change = _step(module, loop, element)
      if start is None or change is None:
        break
      first, step = first + factor * start, step + factor * change
    else:
      if step < 0:
        return max(0, -(-first // -step))
  return 0


def _comparisons(module, condition):
  """Both sides of every `a < b` of a loop's condition, fusions included."""
  for instruction in condition.instructions.values():
    if _is_less(instruction):
      yield tuple(
          _linear(module, condition, n, {}) for n in instruction.operands)
    elif instruction.opcode == 'fusion':
      inner = module.computations[instruction.called('calls')]
      outer = _arguments(module, condition, instruction, {})
      for candidate in inner.instructions.values():
        if _is_less(candidate):
          yield tuple(
              _linear(module, inner, n, outer) for n in candidate.operands)


def _is_less(instruction) -> bool:
  return (instruction.opcode == 'compare'
          and 'direction=LT' in instruction.attributes)


def _arguments(module, computation, fusion, outer):
  """What the parameters of a fused computation are, by number."""
  return {
      number: _linear(module, computation, name, outer)
      for number, name in enumerate(fusion.operands)}


def _linear(module, computation, name, outer) -> _Linear | None:
  """The scalar `name` as a linear form; None if it is none.

  `outer` has the forms of a fused computation's parameters.
  """
  instruction = computation.instructions[name]
  opcode, operands = instruction.opcode, instruction.operands
  if opcode == 'constant':
    is_integer = re.fullmatch(r'-?\d+', instruction.literal)
    return _Linear(int(instruction.literal)) if is_integer else None
  if opcode in _SAME:
    return _linear(module, computation, operands[0], outer)
  if opcode == 'parameter':
    return outer.get(int(instruction.literal))
  if opcode in ('add', 'subtract'):
    left, right = (_linear(module, computation, n, outer) for n in operands)
    if left is None or right is None:
      return None
    return left.plus(right, 1 if opcode == 'add' else -1)
  if opcode == 'get-tuple-element':
    return _element(module, computation, instruction)
  if opcode == 'fusion':
    inner = module.computations[instruction.called('calls')]
    outer = _arguments(module, computation, instruction, outer)
    return _linear(module, inner, inner.root, outer)
  return None


def _element(module, computation, instruction) -> _Linear | None:
  """An element of a tuple, of the loop state, or of a loop that has ended."""
  index = int(re.search(r'index=(\d+)', instruction.attributes).group(1))
  source = computation.instructions[instruction.operands[0]]
  if source.opcode == 'parameter':
    return _Linear(0, ((index, 1),))
  if source.opcode == 'tuple':
    return _linear(module, computation, source.operands[index], {})
  if source.opcode == 'while':
    end = _end(module, computation, source, index)
    return None if end is None else _Linear(end)
  return None


def _start(module, parent, loop, index) -> int | None:
  """The first value of an element of the loop state."""
  source = parent.instructions[loop.operands[0]]
  if source.opcode != 'tuple':
    return None
  form = _linear(module, parent, source.operands[index], {})
  return form.constant if form is not None and not form.factors else None


def _next(module, loop, index) -> _Linear | None:
  """An element after a turn, from the elements before it."""
  body = module.computations[loop.called('body')]
  root = body.instructions[body.root]
  if root.opcode != 'tuple':
    return None
  return _linear(module, body, root.operands[index], {})


def _step(module, loop, index) -> int | None:
  """What one turn adds to an element; 0 if it stays as it is."""
  form = _next(module, loop, index)
  if form is None or form.factors != ((index, 1),):
    return None
  return form.constant


def _end(module, parent, loop, index) -> int | None:
  """The value of an element when the loop has run as often as it can."""
  turns = trip_count(module, parent, loop)
  form = _next(module, loop, index)
  if not turns or form is None:
    return None
  total = form.constant
  for element, factor in form.factors:
    start, step = (
        _start(module, parent, loop, element), _step(module, loop, element))
    if start is None or step is None:
      return None
    total += factor * (start + step * (turns - 1))
  return total
