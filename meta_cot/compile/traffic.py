# SPDX-License-Identifier: Apache-2.0
"""Bytes that single instructions move to and from HBM."""

import math

from meta_cot.compile import hlo

COLLECTIVES = (
    'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
    'collective-permute', 'ragged-all-to-all', 'collective-broadcast')
_FREE = {  # opcodes that move nothing
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast',
    'after-all', 'partition-id', 'replica-id', 'add-dependency', 'domain',
    'opt-barrier', 'while', 'conditional', 'call', 'async-start',
    'async-update', 'async-done', 'copy-done'}


def in_hbm(arrays) -> float:
  """Bytes of the arrays that lie in HBM."""
  return math.fsum(a.num_bytes for a in arrays if a.in_hbm)


def result_arrays(instruction) -> tuple[hlo.Array, ...]:
  """Arrays of the result; an asynchronous start also lists other things.

  First its operands, unless it is an all-reduce; last counters of the transfer.
  """
  arrays = instruction.arrays
  if not instruction.opcode.endswith('-start'):
    return arrays
  arrays = tuple(a for a in arrays if a.dims or a.dtype != 'u32')
  return arrays[len(instruction.operands):] or arrays


def of_instruction(
    module: hlo.Module, computation: hlo.Computation,
    instruction: hlo.Instruction,
) -> float:
  """Bytes that an instruction reads and writes in HBM, once.

  Loops and calls move nothing themselves. Collectives inside a fusion are left
  out: they may be written out in several fusions.
  """
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith('-done'):
    return 0.0
  if opcode == 'custom-call' and not instruction.operands:
    return 0.0  # allocates
  if opcode == 'fusion':
    return _of_fusion(module, computation, instruction)
  result = in_hbm(result_arrays(instruction))
  if opcode == 'copy-start':  # (destination, source, context)
    return in_hbm(instruction.arrays[:2])
  if opcode in ('dynamic-slice', 'slice', 'gather'):
    return 2 * result
  operands = [
      in_hbm(computation.instructions[n].arrays)
      for n in instruction.operands if n in computation.instructions]
  if opcode == 'dynamic-update-slice':
    return 2 * operands[1]
  if opcode == 'scatter':
    return 3 * operands[-1]
  return result + math.fsum(operands)


def _of_fusion(module, computation, fusion) -> float:
  inner = module.computations[fusion.called('calls')]
  total = _written(inner, fusion)
  for number, parameter in inner.parameters().items():
    source = computation.instructions[fusion.operands[number]]
    full = in_hbm(source.arrays)
    total += min(full, _read(module, inner, parameter.name)) if full else 0
  return total


def _read(module, inner: hlo.Computation, name: str) -> float:
  """Bytes that a fused computation reads of its value `name`."""
  total = 0.0
  for user in inner.users(name):
    if user.opcode in ('dynamic-slice', 'slice', 'gather') and (
        user.operands[0] == name):
      total += math.fsum(a.num_bytes for a in user.arrays)
    elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
      continue  # written in place
    elif user.opcode in COLLECTIVES or user.opcode == 'tuple':
      continue  # counted with the collective; passed on
    elif user.opcode == 'bitcast':
      total += _read(module, inner, user.name)
    elif user.opcode == 'fusion':
      called = module.computations[user.called('calls')]
      parameters = called.parameters()
      total += math.fsum(
          _read(module, called, parameters[i].name)
          for i, operand in enumerate(user.operands) if operand == name)
    else:
      return math.inf  # all of it
  return total


def _written(inner: hlo.Computation, fusion) -> float:
  """Bytes that a fusion writes: an updated slice counts as the slice."""
  result = in_hbm(fusion.arrays)
  root = inner.instructions[inner.root]
  outputs = [root] if root.opcode != 'tuple' else [
      inner.instructions[n] for n in root.operands]
  for output in outputs:
    while output.opcode == 'bitcast':
      output = inner.instructions[output.operands[0]]
    if output.opcode == 'parameter' or output.opcode in COLLECTIVES:
      result -= in_hbm(output.arrays)
    elif output.opcode == 'dynamic-update-slice':
      whole = math.fsum(a.num_bytes for a in output.arrays)
      update = inner.instructions[output.operands[1]]
      result -= whole - math.fsum(a.num_bytes for a in update.arrays)
  return max(result, 0.0)
