# SPDX-License-Identifier: Apache-2.0
"""What `meta_cot.compile` found, as a table and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import operator
from typing import Any

from meta_cot.compile import hlo
from meta_cot.compile import roofline
from meta_cot.runtime import hardware


@dataclasses.dataclass(frozen=True)
class Result:
  """One program, per device."""

  name: str
  memory: hlo.Memory
  capacity: int  # bytes of HBM
  is_refused: bool  # by XLA, for want of HBM
  largest: tuple[hlo.Buffer, ...]
  cost: roofline.Cost
  times: roofline.Times
  model_flops: float  # useful, of one call
  tokens: int  # of one call on all devices
  peak_flops: float
  seconds: float  # of lowering and compiling

  @property
  def fits(self) -> bool:
    return not self.is_refused and self.memory.peak <= self.capacity

  def utilisation(self, seconds: float) -> float | None:
    """Useful FLOPs over what the chip could do; None without useful work."""
    if not self.model_flops or not seconds:
      return None
    return self.model_flops / (seconds * self.peak_flops)

  def as_dict(self) -> dict[str, Any]:
    """Bytes, FLOPs and seconds as plain numbers."""
    return dict(
        name=self.name, fits=self.fits,
        hbm=dataclasses.asdict(self.memory) | dict(
            peak=self.memory.peak, capacity=self.capacity),
        largest_buffers=[dataclasses.asdict(b) for b in self.largest],
        model_flops=self.model_flops, flops=self.cost.flops,
        kernel_flops=self.cost.kernel_flops, hbm_bytes=self.cost.hbm_bytes,
        unknown_loops=self.cost.unknown_loops,
        collectives={
            kind: traffic._asdict()
            for kind, traffic in sorted(self.cost.collectives.items())},
        seconds=dataclasses.asdict(self.times) | dict(
            overlapped=self.times.overlapped, serial=self.times.serial),
        bound=self.times.bound, tokens=self.tokens,
        mfu_overlapped=self.utilisation(self.times.overlapped),
        mfu_serial=self.utilisation(self.times.serial),
        compile_seconds=self.seconds)


def as_text(header: Mapping[str, Any], results: Sequence[Result]) -> str:
  """Makes one table, a column per program; below it what does not fit.

  Args:
    header: `config`, `topology`, `num_slices`, `num_devices`, `chip` (its
      name) and `mesh` (axis -> size).
    results: of the programs.
  """
  rows = [['', *(r.name for r in results)], *_rows(results)]
  lines = [title(header), '', *aligned(rows)]
  for r in results:
    if not r.fits:
      lines += [
          '', f'{r.name} does not fit: it takes {_gib(r.memory.peak)} GiB of '
          f'{_gib(r.capacity)} GiB. Its largest buffers:', *buffers(r)]
  return '\n'.join(lines)


def title(header: Mapping[str, Any]) -> str:
  """Says what was compiled for what; see `as_text`."""
  mesh = ' x '.join(f'{axis} {size}' for axis, size in header['mesh'].items())
  times = f'{header["num_slices"]} slices ' if header['num_slices'] > 1 else ''
  return (
      '{config} on {times}{topology}: {num_devices} devices {chip}, mesh '
      '{mesh}; numbers are per device').format_map(
          {**header, 'mesh': mesh, 'times': times})


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  """Pads cells to columns, the first to the left, others to the right."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  return [
      '  '.join([row[0].ljust(widths[0]), *(
          c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip()
      for row in rows]


def buffers(result: Result) -> list[str]:
  """Lists the largest buffers of a program, a line each."""
  return [f'  {_gib(b.num_bytes):>8} GiB  {b.shape}  {b.source}'
          for b in result.largest]


def _rows(results: Sequence[Result]) -> Iterator[list[str]]:
  """A label, then a cell per program."""
  def row(label, cell):
    return [label, *map(cell, results)]

  def number(label, name, unit):
    value = operator.attrgetter(name)
    return row(label, lambda r: f'{value(r) / unit:,.2f}')

  for field in dataclasses.fields(hlo.Memory):
    yield number(f'HBM {field.name}, GiB', f'memory.{field.name}', hardware.GIB)
  yield number('HBM peak, GiB', 'memory.peak', hardware.GIB)
  yield number('HBM capacity, GiB', 'capacity', hardware.GIB)
  yield row('fits', lambda r: 'yes' if r.fits else 'NO')
  yield number('model TFLOPs', 'model_flops', 1e12)
  yield number('TFLOPs', 'cost.flops', 1e12)
  yield number('HBM traffic, GB', 'cost.hbm_bytes', 1e9)
  for kind in sorted({k for r in results for k in r.cost.collectives}):
    yield row(f'{kind}, count: GB', lambda r, k=kind: _traffic(
        r.cost.collectives.get(k)))
  yield number('sent, GB', 'cost.sent', 1e9)
  yield number('compute, ms', 'times.compute', 1e-3)
  yield number('HBM, ms', 'times.hbm', 1e-3)
  yield number('interconnect, ms', 'times.ici', 1e-3)
  if any(r.times.dcn for r in results):
    yield number('sent between slices, GB', 'cost.sent_between', 1e9)
    yield number('between slices, ms', 'times.dcn', 1e-3)
  yield number('roofline, ms', 'times.overlapped', 1e-3)
  yield row('bound by', lambda r: r.times.bound)
  yield row('MFU at most', lambda r: percent(
      r.utilisation(r.times.overlapped)))
  yield row('MFU without overlap', lambda r: percent(
      r.utilisation(r.times.serial)))
  if any(r.cost.unknown_loops for r in results):
    yield row('loops counted once', lambda r: str(r.cost.unknown_loops))
  yield row('compiled in, s', lambda r: f'{r.seconds:.0f}')


def _gib(value: float) -> str:
  return f'{value / hardware.GIB:,.2f}'


def percent(value: float | None) -> str:
  """Writes a share of 1; '-' for None."""
  return '-' if value is None else f'{100 * value:.1f}%'


def _traffic(traffic: roofline.Traffic | None) -> str:
  return '-' if traffic is None else (
      f'{traffic.count:,.0f}: {traffic.num_bytes / 1e9:,.2f}')
