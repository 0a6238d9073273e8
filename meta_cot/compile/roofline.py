# SPDX-License-Identifier: Apache-2.0
"""Work of a compiled program, and the least time that a chip needs for it.

docs/pods.md says what is counted: per device, loops as often as they run, where
XLA's own cost analysis counts their body once.
"""

import dataclasses
import math
import re
from typing import NamedTuple

from meta_cot.compile import hlo
from meta_cot.compile import loops
from meta_cot.compile import work
from meta_cot.runtime import hardware

BETWEEN = ' between slices'  # end of the names of such collectives


class Traffic(NamedTuple):
  """Collectives of one kind."""

  count: float = 0
  num_bytes: float = 0  # of the larger of operand and result
  sent: float = 0  # by one device


@dataclasses.dataclass
class Cost:
  """Work of one device."""

  flops: float = 0  # of matrix products, 2 per multiply-add
  hbm_bytes: float = 0  # read and written by fused kernels
  kernel_flops: float = 0  # the part of `flops` in Pallas kernels
  unknown_loops: int = 0  # loops whose turns could not be read: counted once
  collectives: dict[str, Traffic] = dataclasses.field(default_factory=dict)

  def add(self, other: 'Cost', times: float = 1) -> None:
    """Adds `times` runs of `other`."""
    self.flops += times * other.flops
    self.hbm_bytes += times * other.hbm_bytes
    self.kernel_flops += times * other.kernel_flops
    self.unknown_loops += other.unknown_loops
    for kind, traffic in other.collectives.items():
      before = self.collectives.get(kind, Traffic())
      self.collectives[kind] = Traffic(
          *(a + times * b for a, b in zip(before, traffic)))

  @property
  def sent(self) -> float:
    """Bytes that one device sends over the interconnect."""
    return math.fsum(
        t.sent for kind, t in self.collectives.items()
        if not kind.endswith(BETWEEN))

  @property
  def sent_between(self) -> float:
    """Bytes that one device sends to other slices."""
    return math.fsum(
        t.sent for kind, t in self.collectives.items()
        if kind.endswith(BETWEEN))


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of one run, were each resource used at its vendor's peak."""

  compute: float
  hbm: float
  ici: float
  dcn: float = 0.0

  @property
  def overlapped(self) -> float:
    """All at once: no program is faster."""
    return max(self.compute, self.hbm, self.ici, self.dcn)

  @property
  def serial(self) -> float:
    """One after the other: nothing overlaps."""
    return self.compute + self.hbm + self.ici + self.dcn

  @property
  def bound(self) -> str:
    """The resource that takes longest."""
    return max(
        ('compute', 'hbm', 'ici', 'dcn'), key=lambda k: getattr(self, k))


def times(
    cost: Cost, chip: hardware.Chip, shape: tuple[int, ...], *,
    model_flops: float) -> Times:
  """Least seconds for `cost` on a slice of `chip` with topology `shape`.

  The interconnect is given all links of a mean chip of the slice at once, the
  best that any routing could do; the network between slices its whole width.
  Products with a vector, as in decoding, are element-wise arithmetic to XLA:
  computing takes at least `model_flops`.
  """
  links = hardware.links_per_chip(chip, shape)
  sent = cost.sent / (links * chip.link_bandwidth) if links else 0.0
  return Times(
      compute=max(cost.flops, model_flops) / chip.peak_flops,
      hbm=cost.hbm_bytes / chip.hbm_bandwidth, ici=sent,
      dcn=cost.sent_between and cost.sent_between / chip.dcn_bandwidth)


def cost(module: hlo.Module, num_devices: int, num_slices: int = 1) -> Cost:
  """Work of one run of the program on one device.

  Args:
    module: the program of a slice; XLA makes one for each.
    num_devices: of a slice.
    num_slices: that run it together.
  """
  return _Counter(num_devices, num_slices).computation(module.entry)


class _Counter:
  """Counts computations once each, with what they call."""

  def __init__(self, num_devices: int, num_slices: int):
    self._num_devices, self._num_slices = num_devices, num_slices
    self._done = {}

  def computation(self, computation: hlo.Computation) -> Cost:
    if computation not in self._done:
      total, channels = Cost(), set()
      for instruction in computation.instructions.values():
        total.add(self._instruction(instruction))
        if instruction.opcode == 'fusion':
          self._add_fused(total, instruction, channels)
      self._done[computation] = total
    return self._done[computation]

  def _add_fused(
      self, total: Cost, fusion: hlo.Instruction, channels: set[str]) -> None:
    """Adds the collectives inside a fusion.

    A collective that runs beside other work is written out in every fusion on
    its way, from the first to the last, under one channel: it counts once.
    """
    inner, = fusion.called('calls')
    for instruction in inner.instructions.values():
      kind = instruction.opcode
      if kind == 'fusion':
        self._add_fused(total, instruction, channels)
      if kind not in work.COLLECTIVES:
        continue
      channel = instruction.find(r'channel_id=(\d+)')
      if channel in channels:
        continue
      if channel:
        channels.add(channel)
      traffic = self._traffic(instruction, kind)
      moved = work.bytes_moved(instruction)
      if kind == 'all-reduce' and 'all-reduce-scatter' in inner.name:
        # Its result is sliced at once and never exists as a whole.
        kind = 'reduce-scatter'
        moved -= work.in_hbm(instruction.arrays)
        traffic = traffic._replace(sent=traffic.sent / 2)
      total.add(Cost(hbm_bytes=moved, collectives={kind: traffic}))

  def _instruction(self, instruction: hlo.Instruction) -> Cost:
    opcode, total = instruction.opcode, Cost()
    if opcode in ('while', 'call', 'async-start'):
      turns = loops.trip_count(instruction) if opcode == 'while' else 1
      total.unknown_loops = 0 if turns else 1
      for called in instruction.called(
          'body', 'condition', 'to_apply', 'calls'):
        total.add(self.computation(called), turns or 1)
      return total
    if opcode == 'conditional':
      branches = map(self.computation, instruction.called(
          'branch_computations', 'true_computation', 'false_computation'))
      return max(branches, key=lambda c: c.flops + c.hbm_bytes)
    if opcode == 'fusion':
      inner = self.computation(*instruction.called('calls'))
      total.flops, total.kernel_flops = inner.flops, inner.kernel_flops
    elif opcode in ('dot', 'convolution'):
      total.flops = work.flops_of_product(instruction)
    elif opcode == 'custom-call':
      total.flops = total.kernel_flops = work.flops_of_kernel(instruction)
    kind = opcode.removesuffix('-start')
    if kind in work.COLLECTIVES:
      total.collectives = {kind: self._traffic(instruction, kind)}
    if opcode == 'send':
      total.collectives = self._between(instruction)
    total.hbm_bytes = work.bytes_moved(instruction)
    return total

  def _between(self, send: hlo.Instruction) -> dict[str, Traffic]:
    """What hosts pass on between slices, each device's part by itself."""
    kind = send.find(r'_xla_megascale_transfer_type="(\w+)"')
    if not kind:  # to the host
      return {}
    kind = kind.lower().replace('_', '-')
    size = work.num_bytes(send.operands[0].arrays)
    n = self._num_slices
    share = {'all-reduce': 2 * (n - 1) / n, 'all-gather': n - 1.0,
             'reduce-scatter': (n - 1) / n, 'all-to-all': (n - 1) / n}
    return {kind + BETWEEN: Traffic(1, size, share.get(kind, 1.0) * size)}

  def _traffic(self, instruction: hlo.Instruction, kind: str) -> Traffic:
    size = max(
        math.fsum(work.num_bytes(n.arrays) for n in instruction.operands),
        work.num_bytes(work.result_arrays(instruction)))
    n = group_size(instruction.attributes, self._num_devices)
    share = {'all-reduce': 2 * (n - 1) / n, 'collective-permute': 1.0}.get(
        kind, (n - 1) / n)
    return Traffic(1, size, share * size)


def group_size(attributes: str, num_devices: int) -> int:
  """Devices that one group of a collective has.

  Reads `{{0,1},{2,3}}`, `[groups,size]<=[...]` and
  `mesh['a'=2,'b'=4] {'b'}`; no groups mean all devices.
  """
  match = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes)
  if match:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match.group(1)))
    return math.prod(
        int(sizes[a]) for a in re.findall(r"'(\w+)'", match.group(2)))
  match = re.search(r'replica_groups=\[(\d+),(\d+)\]', attributes)
  if match:
    return int(match.group(2))
  match = re.search(r'replica_groups=\{\{([\d,]+)\}', attributes)
  if match:
    return len(match.group(1).split(','))
  return num_devices
