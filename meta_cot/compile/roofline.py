# SPDX-License-Identifier: Apache-2.0
"""Work of a compiled program, and the least time that a chip needs for it.

Counted per device, loops as often as they run:

  flops        2 per multiply-add of matrix products, rematerialised ones
               included; element-wise arithmetic is not counted
  hbm_bytes    what every fused kernel reads and writes in HBM; a slice of an
               array counts as the slice, arrays kept in VMEM not at all
  collectives  per kind: how many, their bytes, and what a device sends: for n
               devices (n-1)/n of the gathered or scattered array, twice that
               for an all-reduce, the whole array for a permute

A Pallas kernel is opaque to XLA; `products.of_kernel` says what is taken.
"""

import dataclasses
import math
import re

from meta_cot.compile import hlo
from meta_cot.compile import loops
from meta_cot.compile import products
from meta_cot.compile import traffic as traffic_lib
from meta_cot.runtime import hardware


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Collectives of one kind."""

  count: float = 0
  num_bytes: float = 0  # of the larger of operand and result
  sent: float = 0  # by one device

  def plus(self, other: 'Traffic', times: float) -> 'Traffic':
    return Traffic(
        self.count + times * other.count,
        self.num_bytes + times * other.num_bytes,
        self.sent + times * other.sent)


@dataclasses.dataclass
class Cost:
  """Work of one device; see the module."""

  flops: float = 0
  hbm_bytes: float = 0
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
      self.collectives[kind] = before.plus(traffic, times)

  @property
  def sent(self) -> float:
    """Bytes that one device sends over the interconnect."""
    return math.fsum(t.sent for t in self.collectives.values())


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of one run, were each resource used at its vendor's peak."""

  compute: float
  hbm: float
  ici: float

  @property
  def overlapped(self) -> float:
    """All three at once: no program is faster."""
    return max(self.compute, self.hbm, self.ici)

  @property
  def serial(self) -> float:
    """One after the other: nothing overlaps."""
    return self.compute + self.hbm + self.ici

  @property
  def bound(self) -> str:
    """The resource that takes longest."""
    return max(('compute', 'hbm', 'ici'), key=lambda k: getattr(self, k))


def times(
    cost: Cost, chip: hardware.Chip, shape: tuple[int, ...], *,
    model_flops: float
) -> Times:
  """Least seconds for `cost` on a slice of `chip` with topology `shape`.

  The interconnect is given all links of a mean chip of the slice at once, the
  best that any routing could do. Products with a vector, as in decoding, are
  element-wise arithmetic to XLA: computing takes at least `model_flops`.
  """
  links = hardware.links_per_chip(chip, shape)
  sent = cost.sent / (links * chip.link_bandwidth) if links else 0.0
  return Times(
      compute=max(cost.flops, model_flops) / chip.peak_flops,
      hbm=cost.hbm_bytes / chip.hbm_bandwidth, ici=sent)


def cost(module: hlo.Module, num_devices: int) -> Cost:
  """Work of one run of the program on one of `num_devices` devices."""
  return _Counter(module, num_devices).computation(module.entry.name)


class _Counter:
  """Counts computations once each, with what they call."""

  def __init__(self, module: hlo.Module, num_devices: int):
    self._module = module
    self._num_devices = num_devices
    self._done = {}

  def computation(self, name: str) -> Cost:
    if name not in self._done:
      total = Cost()
      computation = self._module.computations[name]
      channels = set()
      for instruction in computation.instructions.values():
        total.add(self._instruction(computation, instruction))
        if instruction.opcode == 'fusion':
          self._add_fused(total, instruction, channels)
      self._done[name] = total
    return self._done[name]

  def _add_fused(self, total: Cost, fusion, channels: set[str]) -> None:
    """Adds the collectives inside a fusion.

    A collective that runs beside other work is written out in every fusion on
    its way, from the first to the last, under one channel: it counts once.
    """
    name = fusion.called('calls')
    inner = self._module.computations[name]
    for instruction in inner.instructions.values():
      if instruction.opcode == 'fusion':
        self._add_fused(total, instruction, channels)
      if instruction.opcode not in traffic_lib.COLLECTIVES:
        continue
      channel = re.search(r'channel_id=(\d+)', instruction.attributes)
      if channel is not None:
        if channel.group(1) in channels:
          continue
        channels.add(channel.group(1))
      total.add(self._fused(name, inner, instruction))

  def _fused(self, name, inner, instruction) -> Cost:
    """A collective inside the fused computation `name`."""
    kind = instruction.opcode
    traffic = self._traffic(inner, instruction, kind)
    moved = traffic_lib.of_instruction(self._module, inner, instruction)
    if kind == 'all-reduce' and 'all-reduce-scatter' in name:
      # Its result is sliced at once and never exists as a whole.
      kind = 'reduce-scatter'
      moved -= traffic_lib.in_hbm(instruction.arrays)
      traffic = dataclasses.replace(traffic, sent=traffic.sent / 2)
    return Cost(hbm_bytes=moved, collectives={kind: traffic})

  def _instruction(self, computation, instruction) -> Cost:
    opcode = instruction.opcode
    if opcode == 'while':
      return self._loop(computation, instruction)
    if opcode == 'conditional':
      branches = [self.computation(n) for n in _branches(instruction)]
      return max(branches, key=lambda c: c.flops + c.hbm_bytes)
    if opcode in ('call', 'async-start'):
      called = instruction.called('to_apply') or instruction.called('calls')
      return self.computation(called) if called else Cost()
    total = Cost()
    if opcode == 'fusion':
      inner = self.computation(instruction.called('calls'))
      total.flops += inner.flops
      total.kernel_flops += inner.kernel_flops
    elif opcode in ('dot', 'convolution'):
      total.flops = products.of_product(computation, instruction)
    elif opcode == 'custom-call':
      total.flops = products.of_kernel(computation, instruction)
      total.kernel_flops = total.flops
    kind = opcode.removesuffix('-start')
    if kind in traffic_lib.COLLECTIVES:
      total.collectives = {kind: self._traffic(computation, instruction, kind)}
    total.hbm_bytes = traffic_lib.of_instruction(
        self._module, computation, instruction)
    return total

  def _loop(self, computation, instruction) -> Cost:
    turns = loops.trip_count(self._module, computation, instruction)
    total = Cost(unknown_loops=0 if turns else 1)
    for key in ('body', 'condition'):
      total.add(self.computation(instruction.called(key)), turns or 1)
    return total

  def _traffic(self, computation, instruction, kind) -> Traffic:
    size = max(
        math.fsum(a.num_bytes for a in self._operand_arrays(
            computation, instruction)),
        math.fsum(a.num_bytes for a in traffic_lib.result_arrays(instruction)))
    n = group_size(instruction.attributes, self._num_devices)
    share = {'all-reduce': 2 * (n - 1) / n, 'collective-permute': 1.0}.get(
        kind, (n - 1) / n)
    return Traffic(1, size, share * size)

  def _operand_arrays(self, computation, instruction):
    for name in instruction.operands:
      if name in computation.instructions:
        yield from computation.instructions[name].arrays


def _branches(instruction) -> list[str]:
  match = re.search(r'branch_computations=\{([^}]*)\}', instruction.attributes)
  if match:
    return [n.strip().lstrip('%') for n in match.group(1).split(',')]
  return [
      instruction.called('true_computation'),
      instruction.called('false_computation')]


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
