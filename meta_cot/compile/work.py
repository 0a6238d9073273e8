# SPDX-License-Identifier: Apache-2.0
"""Work of single instructions: FLOPs, and bytes moved to and from HBM."""

from collections.abc import Iterable
import functools
import json
import math
import re

from meta_cot.compile import hlo

COLLECTIVES = (
    'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
    'collective-permute', 'ragged-all-to-all', 'collective-broadcast')
# Matrix products per pair of blocks: scores and output; with the backward
# pass's scores again, the gradient of the weights, and of what is named.
_SPLASH_PRODUCTS = {'fwd': 2, 'dq': 3, 'dkv': 4}
_FREE = {  # opcodes that move nothing
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast',
    'after-all', 'partition-id', 'replica-id', 'add-dependency', 'domain',
    'opt-barrier', 'async-update'}
_SLICES = ('dynamic-slice', 'slice', 'gather')


def flops_of_kernel(instruction: hlo.Instruction) -> float:
  """FLOPs of a Pallas kernel; 0 of any other custom call.

  A kernel's own cost estimate is taken where it has one. JAX's splash attention
  has none: it works off whole blocks of the score matrix, those that a causal
  or window mask leaves, which the shape of its block table tells: for n blocks
  of queries and a widest row of g blocks, n g - g (g - 1) / 2.
  """
  estimate = instruction.find(r'"cost_estimate":\s*(\{[^}]*\})')
  if estimate:
    return float(json.loads(estimate)['flops'])
  match = re.match(r'splash_m[hq]a_(fwd|dq|dkv)', instruction.name)
  if not match:
    return 0.0
  operands = [operand.arrays[0] for operand in instruction.operands]
  table = next(a for a in operands if a.dtype[0] in 'su')
  queries = next(a for a in operands if a.dtype[0] in 'bf').dims
  num_blocks, widest = table.dims[-2:]
  pairs = num_blocks * widest - widest * (widest - 1) / 2
  block = queries[-2] / num_blocks
  products = _SPLASH_PRODUCTS[match.group(1)]
  if match.group(1) == 'dkv' and instruction.find(
      r'(?i)(use_fused_bwd_kernel\W+true)'):
    products = 5  # dq too
  heads = math.prod(queries[:-2])  # of all rows
  return 2.0 * products * heads * queries[-1] * pairs * block ** 2


def flops_of_product(instruction: hlo.Instruction) -> float:
  """FLOPs of a `dot` or of a `convolution`, which TPUs make of dots.

  A convolution costs 2 x batch x output features x input features of the
  kernel x, for every window axis, the pairs of output and kernel position that
  meet an element of the input (and no padding or dilation hole).
  """
  left, right = (n.arrays[0].dims for n in instruction.operands[:2])
  out = instruction.arrays[0].dims
  if instruction.opcode == 'dot':
    axes = instruction.find(r'lhs_contracting_dims=\{([\d,]*)\}')
    return 2.0 * math.prod(out) * math.prod(
        left[int(axis)] for axis in axes.split(',') if axis)
  of_input, of_kernel, of_output = re.split(
      '_|->', instruction.find(r'dim_labels=(\w+->\w+)'))
  window = {  # of every axis; the padding is the low one
      key: [int(v.split('_')[0]) for v in values.split('x')]
      for key, values in re.findall(
          r'\b(stride|pad|lhs_dilate|rhs_dilate)=(\S+)',
          instruction.find(r'window=\{([^}]*)\}'))}
  total = 2.0 * out[of_output.index('b')] * out[of_output.index('f')]
  total *= right[of_kernel.index('i')]
  for axis in range(len(of_output) - 2):
    label = str(axis)
    total *= _meetings(
        left[of_input.index(label)], right[of_kernel.index(label)],
        out[of_output.index(label)],
        **{key: values[axis] for key, values in window.items()})
  return total


@functools.cache
def _meetings(
    size: int, kernel: int, out: int, *, stride: int = 1, pad: int = 0,
    lhs_dilate: int = 1, rhs_dilate: int = 1) -> int:
  """Pairs (output, kernel position) of one axis that meet an input element."""
  places = (
      o * stride + k * rhs_dilate - pad
      for k in range(kernel) for o in range(out))
  return sum(
      0 <= at <= (size - 1) * lhs_dilate and at % lhs_dilate == 0
      for at in places)


def num_bytes(arrays: Iterable[hlo.Array]) -> float:
  """Bytes of the arrays, wherever they lie."""
  return math.fsum(a.num_bytes for a in arrays)


def in_hbm(arrays: Iterable[hlo.Array]) -> float:
  """Bytes of the arrays that lie in HBM."""
  return num_bytes(a for a in arrays if a.in_hbm)


def result_arrays(instruction: hlo.Instruction) -> tuple[hlo.Array, ...]:
  """Arrays of the result; an asynchronous start also lists other things.

  First its operands, unless it is an all-reduce; last counters of the transfer.
  """
  arrays = instruction.arrays
  if not instruction.opcode.endswith('-start'):
    return arrays
  arrays = tuple(a for a in arrays if a.dims or a.dtype != 'u32')
  return arrays[len(instruction.operands):] or arrays


def bytes_moved(instruction: hlo.Instruction) -> float:
  """Bytes that an instruction reads and writes in HBM, once.

  Loops and calls move nothing themselves. Collectives inside a fusion are left
  out: they may be written out in several fusions.
  """
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith('-done'):
    return 0.0
  if opcode == 'custom-call' and not instruction.operands:
    return 0.0  # allocates
  if opcode == 'copy-start':  # (destination, source, context)
    return in_hbm(instruction.arrays[:2])
  if opcode == 'send':
    return in_hbm(instruction.operands[0].arrays)
  if opcode == 'recv':  # (destination, context, token)
    return in_hbm(instruction.arrays[:1])
  if opcode == 'fusion':
    inner, = instruction.called('calls')
    return _written(inner, instruction) + sum(
        min(in_hbm(instruction.operands[number].arrays), _read(parameter))
        for number, parameter in inner.parameters().items())
  result = in_hbm(result_arrays(instruction))
  if opcode in _SLICES:
    return 2 * result
  operands = [in_hbm(operand.arrays) for operand in instruction.operands]
  if opcode == 'dynamic-update-slice':
    return 2 * operands[1]
  if opcode == 'scatter':
    return 3 * operands[-1]
  return result + math.fsum(operands)


def _read(value: hlo.Instruction) -> float:
  """Bytes that a fused computation reads of one of its values."""
  total = 0.0
  for user in value.users:
    if user.opcode in _SLICES and user.operands[0] is value:
      total += num_bytes(user.arrays)
    elif user.opcode == 'dynamic-update-slice' and user.operands[0] is value:
      continue  # written in place
    elif user.opcode in COLLECTIVES or user.opcode == 'tuple':
      continue  # counted with the collective; passed on
    elif user.opcode == 'bitcast':
      total += _read(user)
    elif user.opcode == 'fusion':
      inner, = user.called('calls')
      parameters = inner.parameters()
      total += math.fsum(
          _read(parameters[i]) for i, operand in enumerate(user.operands)
          if operand is value)
    else:
      return math.inf  # all of it
  return total


def _written(inner: hlo.Computation, fusion: hlo.Instruction) -> float:
  """Bytes that a fusion writes: an updated slice counts as the slice."""
  result = in_hbm(fusion.arrays)
  root = inner.root
  for output in root.operands if root.opcode == 'tuple' else [root]:
    while output.opcode == 'bitcast':
      output = output.operands[0]
    if output.opcode == 'parameter' or output.opcode in COLLECTIVES:
      result -= in_hbm(output.arrays)
    elif output.opcode == 'dynamic-update-slice':
      update = output.operands[1]
      result -= num_bytes(output.arrays) - num_bytes(update.arrays)
  return max(result, 0.0)
