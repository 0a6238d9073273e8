# SPDX-License-Identifier: Apache-2.0
"""FLOPs of single instructions: matrix products and attention kernels."""

import collections
import functools
import json
import math
import re

from meta_cot.compile import hlo

# Matrix products per pair of blocks: scores and output; with the backward
# pass's scores again, the gradient of the weights, and of what is named.
_SPLASH_PRODUCTS = {'fwd': 2, 'dq': 3, 'dkv': 4}
_FUSED_PRODUCTS = 5  # dkv and dq in one kernel


def of_kernel(
    computation: hlo.Computation, instruction: hlo.Instruction
) -> float:
  """FLOPs of a Pallas kernel; 0 of any other custom call.

  A kernel's own cost estimate is taken where it has one. JAX's splash attention
  has none: it works off whole blocks of the score matrix, those that a causal
  or window mask leaves, which the shape of its block table tells: for n blocks
  of queries and a widest row of g blocks, n g - g (g - 1) / 2.
  """
  match = re.search(
      r'"cost_estimate":\s*(\{[^}]*\})', instruction.attributes)
  if match:
    return float(json.loads(match.group(1))['flops'])
  match = re.match(r'splash_m[hq]a_(fwd|dq|dkv)', instruction.name)
  if not match:
    return 0.0
  operands = [computation.instructions[n].arrays[0]
              for n in instruction.operands]
  table = next(a for a in operands if a.dtype[0] in 'su')
  queries = next(a for a in operands if a.dtype[0] in 'bf').dims
  num_blocks, widest = table.dims[-2:]
  pairs = num_blocks * widest - widest * (widest - 1) / 2
  block = queries[-2] / num_blocks
  products = _SPLASH_PRODUCTS[match.group(1)]
  if match.group(1) == 'dkv' and re.search(
      r'use_fused_bwd_kernel\W+true', instruction.attributes, re.IGNORECASE):
    products = _FUSED_PRODUCTS
  heads = math.prod(queries[:-2])  # of all rows
  return 2.0 * products * heads * queries[-1] * pairs * block ** 2


def of_product(
    computation: hlo.Computation, instruction: hlo.Instruction
) -> float:
  """FLOPs of a `dot` or of a `convolution`, which TPUs make of dots.

  A convolution costs 2 x batch x output features x input features of the
  kernel x, for every window axis, the pairs of output and kernel position that
  meet an element of the input (and no padding or dilation hole).
  """
  left, right = (
      computation.instructions[n].arrays[0].dims
      for n in instruction.operands[:2])
  out = instruction.arrays[0].dims
  text = instruction.attributes
  if instruction.opcode == 'dot':
    match = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', text)
    contracted = [int(d) for d in match.group(1).split(',') if d]
    return 2.0 * math.prod(out) * math.prod(left[d] for d in contracted)
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', text)
  of_input, of_kernel, of_output = labels.groups()
  window = _window(text)
  total = 2.0 * out[of_output.index('b')] * out[of_output.index('f')]
  total *= right[of_kernel.index('i')]
  for axis in range(len(of_output) - 2):
    label = str(axis)
    total *= _meetings(
        left[of_input.index(label)], right[of_kernel.index(label)],
        out[of_output.index(label)], **{k: v[axis] for k, v in window.items()
                                        if axis < len(v)})
  return total


def _window(text: str) -> dict[str, list]:
  """Per window axis: stride, low padding and dilations."""
  match = re.search(r'window=\{([^}]*)\}', text)
  found = collections.defaultdict(list)
  for key, value in re.findall(r'(\w+)=(\S+)', match.group(1) if match else ''):
    if key == 'pad':
      found['pad'] = [int(p.split('_')[0]) for p in value.split('x')]
    elif key in ('stride', 'lhs_dilate', 'rhs_dilate'):
      found[key] = [int(v) for v in value.split('x')]
  return found


@functools.cache
def _meetings(
    size: int, kernel: int, out: int, *, stride: int = 1, pad: int = 0,
    lhs_dilate: int = 1, rhs_dilate: int = 1) -> int:
  """Pairs (output, kernel position) of one axis that meet an input element."""
  count = 0
  for k in range(kernel):
    for o in range(out):
      at = o * stride + k * rhs_dilate - pad
      count += 0 <= at <= (size - 1) * lhs_dilate and at % lhs_dilate == 0
  return count
