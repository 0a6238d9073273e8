# SPDX-License-Identifier: Apache-2.0
"""Reads what XLA writes of a compiled program: its text and its buffers.

All sizes are per device. The assignment of buffers is written also where the
program turns out not to fit.
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
_INSTRUCTION = re.compile(  # name = shape opcode(operands), attributes
    r'^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(')
_NAME = re.compile(r'%([\w.\-]+)')
_ALLOCATION = re.compile(r'^allocation \d+: size (\d+), (color (\d+), )?(.*)')
_VALUE = re.compile(
    r'^ value: <\d+ (\S+?)(\{[^}]*\})?( \(phi\))? @0> '
    r'\(size=(\d+),offset=(\d+)\): (.*)')


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's shape."""

  dtype: str
  dims: tuple[int, ...]
  in_hbm: bool  # False: in VMEM, SMEM or on the host

  @property
  def num_bytes(self) -> float:
    """Size without the padding of tiled layouts."""
    return math.prod(self.dims) * _DTYPE_BYTES[self.dtype]


@dataclasses.dataclass(eq=False, repr=False)
class Instruction:
  """One line of a computation."""

  name: str
  arrays: tuple[Array, ...]  # of its shape, tuples flattened
  opcode: str
  operands: list['Instruction']
  literal: str  # what stands between the parentheses
  attributes: str  # what follows them
  computations: dict[str, 'Computation']  # of the program, by name
  users: list['Instruction'] = dataclasses.field(default_factory=list)

  def find(self, pattern: str) -> str:
    """What the attributes have for the first group of `pattern`, or ''."""
    match = re.search(pattern, self.attributes)
    return match.group(1) if match else ''

  def called(self, *keys: str) -> list['Computation']:
    """Those that attributes name, as in body=%name or branches={%a, %b}."""
    values = re.findall(
        rf'\b(?:{"|".join(keys)})=(%[\w.\-]+|\{{[^}}]*\}})', self.attributes)
    return [self.computations[n] for n in _NAME.findall(' '.join(values))]


@dataclasses.dataclass(eq=False, repr=False)
class Computation:
  """A function of the program: its instructions by name, in order."""

  name: str
  instructions: dict[str, Instruction]
  root: Instruction | None = None

  def parameters(self) -> dict[int, Instruction]:
    """The parameters by number."""
    return {
        int(i.literal): i for i in self.instructions.values()
        if i.opcode == 'parameter'}


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program."""

  computations: dict[str, Computation]
  entry: Computation


def parse(text: str) -> Module:
  """Reads the text form of an optimised HLO module."""
  computations, entry, last = {}, None, None
  for line in text.splitlines():
    if match := _COMPUTATION.match(line):
      current, last = Computation(match.group(2), {}), None
      computations[current.name] = current
      entry = current if match.group(1) else entry
    elif match := _INSTRUCTION.match(line):
      is_root, name, shape, opcode = match.groups()
      end = _closing(line, match.end() - 1)
      literal, known = line[match.end():end], current.instructions
      last = known[name] = Instruction(
          name, _arrays(shape), opcode,
          [known[n] for n in _NAME.findall(literal) if n in known],
          literal, line[end + 1:], computations)
      for operand in set(last.operands):
        operand.users.append(last)
      current.root = last if is_root else current.root
    elif line == '}':  # constants may span lines that begin with one
      last = None
    elif last is not None:  # of long attributes
      last.attributes += line
  return Module(computations, entry)


def _closing(text: str, start: int) -> int:
  """Index of the parenthesis that closes the one at `start`."""
  depth = 0
  for match in re.compile(r'[()]').finditer(text, start):
    depth += 1 if match.group() == '(' else -1
    if depth == 0:
      return match.start()
  return len(text) - 1


def _arrays(shape: str) -> tuple[Array, ...]:
  """The arrays of a shape such as 'bf16[8,128]{1,0:T(8,128)S(1)}'."""
  return tuple(
      Array(
          dtype, tuple(int(d) for d in dims.split(',') if d),
          not re.search(r'S\(\d+\)', layout or ''))
      for dtype, dims, layout in _ARRAY.findall(shape)
      if dtype in _DTYPE_BYTES)


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

  For a program that does not fit: of one that does, XLA reports nearly the same
  and the size of the code besides.
  """
  arguments = outputs = aliased = temporaries = 0
  for size, words, _ in _allocations(assignment):
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


def _allocations(assignment: str) -> Iterator[tuple[int, str, list[str]]]:
  """(size, description, lines that follow) of the allocations in HBM."""
  for part in re.split('^(?=allocation )', assignment, flags=re.MULTILINE)[1:]:
    first, *lines = part.splitlines()
    match = _ALLOCATION.match(first)
    if match.group(3) in (None, '0'):
      yield int(match.group(1)), match.group(4), lines


def largest(assignment: str, module: Module, count: int) -> list[Buffer]:
  """The largest buffers, arguments included, the largest first.

  Buffers that use the same place one after the other count once, as the
  largest of them.
  """
  sources = {
      name: instruction.find(r'op_name="([^"]*)"')
      for computation in module.computations.values()
      for name, instruction in computation.instructions.items()}
  found = []
  for _, words, lines in _allocations(assignment):
    places = {}
    for match in filter(None, map(_VALUE.match, lines)):
      name, _, _, size, offset, shape = match.groups()
      buffer = Buffer(
          int(size), re.sub(r'\{[^{}]*\}', '', shape),
          sources.get(name) or name)
      places[offset] = max(
          places.get(offset, buffer), buffer, key=lambda b: b.num_bytes)
    if 'thread-local' not in words:
      found += places.values()
  return sorted(found, key=lambda b: -b.num_bytes)[:count]
