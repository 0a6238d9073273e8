# SPDX-License-Identifier: Apache-2.0
"""HBM that a compiled program takes, and its largest buffers.

Read from XLA's own buffer assignment, which is written also where the program
turns out not to fit.
"""

from collections.abc import Iterator
import dataclasses
import re

from meta_cot.compile import hlo

_ALLOCATION = re.compile(r'^allocation \d+: size (\d+), (color (\d+), )?(.*)')
_VALUE = re.compile(
    r'^ value: <\d+ (\S+?)(\{[^}]*\})?( \(phi\))? @0> '
    r'\(size=(\d+),offset=(\d+)\): (.*)')


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of HBM on one device."""

  arguments: int
  outputs: int  # with those that take the place of an argument
  aliased: int  # outputs in the place of an argument
  temporaries: int
  code: int

  @property
  def peak(self) -> int:
    """Everything that the program holds at once."""
    return (self.arguments + self.outputs - self.aliased + self.temporaries
            + self.code)


@dataclasses.dataclass(frozen=True)
class Buffer:
  """One buffer: its size, its shape and the JAX call that fills it."""

  num_bytes: int
  shape: str
  source: str


def memory(assignment: str) -> Memory:
  """Memory by kind, from the text of a buffer assignment; `code` is 0.

  For a program that does not fit: of one that does, XLA reports the same and
  the size of the code besides.
  """
  arguments = outputs = aliased = temporaries = 0
  for size, words in _allocations(assignment):
    if words.startswith('parameter') or ', parameter ' in words:
      arguments += size
      if 'maybe-live-out' in words:
        outputs += size
        aliased += size
    elif 'maybe-live-out' in words or words.endswith('output:'):
      outputs += size
    elif 'thread-local' not in words:
      temporaries += size
  return Memory(arguments, outputs, aliased, temporaries, 0)


def _allocations(assignment: str) -> Iterator[tuple[int, str]]:
  """(size, description) of the allocations in HBM."""
  for line in assignment.splitlines():
    match = _ALLOCATION.match(line)
    if match and match.group(3) in (None, '0'):
      yield int(match.group(1)), match.group(4)


def largest(
    assignment: str, module: hlo.Module, count: int
) -> list[Buffer]:
  """The largest buffers, arguments included, the largest first.

  Buffers that use the same place one after the other count once, as the
  largest of them.
  """
  sources = {
      instruction.name: instruction.op_name
      for computation in module.computations.values()
      for instruction in computation.instructions.values()}
  found, allocation, counts = {}, -1, False
  for line in assignment.splitlines():
    if line.startswith('allocation '):
      allocation += 1
      match = _ALLOCATION.match(line)
      counts = match.group(3) in (None, '0') and (
          'thread-local' not in match.group(4))
      continue
    match = _VALUE.match(line)
    if not match or not counts:
      continue
    name, _, _, size, offset, shape = match.groups()
    place, before = (allocation, int(offset)), None
    before = found.get(place)
    if before is None or int(size) > before.num_bytes:
      found[place] = Buffer(
          int(size), re.sub(r'\{[^{}]*\}', '', shape),
          sources.get(name) or name)
  by_size = sorted(found.values(), key=lambda b: -b.num_bytes)
  return by_size[:count]
