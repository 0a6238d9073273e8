# SPDX-License-Identifier: Apache-2.0
"""Reads the text of a compiled XLA program and counts its work.

XLA's own cost analysis counts the body of a loop once. Here every instruction
is counted as often as the loops around it run: matrix-product FLOPs, bytes
moved to and from HBM, and collectives by kind. All numbers are per device.
"""

from collections.abc import Iterator
import dataclasses
import math
import re

_DTYPE_BYTES = {
    'pred': 1, 's4': 0.5, 'u4': 0.5, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2,
    'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8,
    'f64': 8, 'c64': 8, 'c128': 16,
}
_ARRAY = re.compile(r'([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](\{[^{}]*\})?')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_NAME = re.compile(r'%([\w.\-]+)')


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's shape."""

  dtype: str
  dims: tuple[int, ...]
  in_hbm: bool  # False: in VMEM, SMEM or on the host

  @property
  def num_bytes(self) -> float:
    """Size without the padding of tiled layouts."""
    return math.prod(self.dims) * _DTYPE_BYTES.get(self.dtype, 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation."""

  name: str
  arrays: tuple[Array, ...]  # of its shape, tuples flattened
  opcode: str
  operands: tuple[str, ...]
  literal: str  # what stands between the parentheses
  attributes: str  # what follows them

  def called(self, key: str) -> str | None:
    """Name of the computation in attribute `key`, such as body=%name."""
    match = re.search(rf'\b{key}=%?([\w.\-]+)', self.attributes)
    return match.group(1) if match else None

  @property
  def op_name(self) -> str:
    """The JAX call that it comes from; '' if unknown."""
    match = re.search(r'op_name="([^"]*)"', self.attributes)
    return match.group(1) if match else ''


@dataclasses.dataclass
class Computation:
  """A function of the program: its instructions by name, in order."""

  name: str
  instructions: dict[str, Instruction]
  root: str = ''

  def parameters(self) -> dict[int, Instruction]:
    """The parameters by number."""
    return {
        int(i.literal): i for i in self.instructions.values()
        if i.opcode == 'parameter'}

  def users(self, name: str) -> Iterator[Instruction]:
    """Instructions that read `name`."""
    for instruction in self.instructions.values():
      if name in instruction.operands:
        yield instruction


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program."""

  computations: dict[str, Computation]
  entry: Computation


def parse(text: str) -> Module:
  """Reads the text form of an optimised HLO module.

  Raises:
    ValueError: there is no entry computation in it.
  """
  computations, entry, current, last = {}, None, None, None
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      current, last = Computation(header.group(2), {}), None
      computations[current.name] = current
      entry = current if header.group(1) else entry
    elif line == '}':  # constants may span lines that begin with one
      current = None
    elif current is not None and (match := _INSTRUCTION.match(line)):
      last = _instruction(match.group(2), line[match.end():])
      current.instructions[last.name] = last
      if match.group(1):
        current.root = last.name
    elif current is not None and last is not None:  # of long attributes
      last = dataclasses.replace(last, attributes=last.attributes + line)
      current.instructions[last.name] = last
  if entry is None:
    raise ValueError(
        f'HLO text: got {len(text)} characters without an ENTRY computation; '
        'must be the text of a compiled module.')
  return Module(computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
  """Reads 'shape opcode(operands), attributes'."""
  end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
  shape, rest = rest[:end], rest[end:].lstrip()
  start = rest.index('(')
  end = _closing(rest, start)
  inner = rest[start + 1:end]
  return Instruction(
      name=name, arrays=arrays(shape), opcode=rest[:start],
      operands=tuple(_NAME.findall(inner)), literal=inner,
      attributes=rest[end + 1:])


def _closing(text: str, start: int) -> int:
  """Index of the parenthesis that closes the one at `start`."""
  depth = 0
  for match in re.compile(r'[()]').finditer(text, start):
    depth += 1 if match.group() == '(' else -1
    if depth == 0:
      return match.start()
  return len(text) - 1


def arrays(shape: str) -> tuple[Array, ...]:
  """The arrays of a shape such as 'bf16[8,128]{1,0:T(8,128)S(1)}'."""
  return tuple(
      Array(
          dtype, tuple(int(d) for d in dims.split(',') if d),
          not re.search(r'S\(\d+\)', layout or ''))
      for dtype, dims, layout in _ARRAY.findall(shape)
      if dtype in _DTYPE_BYTES)
