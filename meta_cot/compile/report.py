# SPDX-License-Identifier: Apache-2.0
"""What `meta_cot.compile` found, as a table and as JSON."""

from collections.abc import Iterator
import dataclasses
from typing import Any

from meta_cot.compile import buffers
from meta_cot.compile import roofline
from meta_cot.runtime import hardware


@dataclasses.dataclass(frozen=True)
class Result:
  """One program, per device."""

  name: str
  memory: buffers.Memory
  capacity: int  # bytes of HBM
  is_refused: bool  # by XLA, for want of HBM
  largest: tuple[buffers.Buffer, ...]
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
            kind: dataclasses.asdict(traffic)
            for kind, traffic in sorted(self.cost.collectives.items())},
        seconds=dataclasses.asdict(self.times) | dict(
            overlapped=self.times.overlapped, serial=self.times.serial),
        bound=self.times.bound, tokens=self.tokens,
        mfu_overlapped=self.utilisation(self.times.overlapped),
        mfu_serial=self.utilisation(self.times.serial),
        compile_seconds=self.seconds)


@dataclasses.dataclass(frozen=True)
class Report:
  """All programs of a config on one slice."""

  config: str
  topology: str
  chip: hardware.Chip
  num_devices: int
  mesh: dict[str, int]
  results: tuple[Result, ...]

  def as_dict(self) -> dict[str, Any]:
    """The report with keys that do not depend on the results."""
    return dict(
        config=self.config, topology=self.topology, chip=self.chip.name,
        num_devices=self.num_devices, mesh=self.mesh,
        fits=all(r.fits for r in self.results),
        programs=[r.as_dict() for r in self.results])

  def as_text(self) -> str:
    """One table, a column per program; below it what does not fit."""
    mesh = ' x '.join(f'{axis} {size}' for axis, size in self.mesh.items())
    lines = [
        f'{self.config} on {self.topology}: {self.num_devices} devices '
        f'{self.chip.name}, mesh {mesh}; numbers are per device', '']
    rows = [['', *(r.name for r in self.results)], *self._rows()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
      cells = [row[0].ljust(widths[0])]
      cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:])]
      lines.append('  '.join(cells).rstrip())
    for result in self.results:
      if not result.fits:
        lines += ['', *_too_large(result)]
    return '\n'.join(lines)

  def _rows(self) -> Iterator[list[str]]:
    results = self.results
    row = lambda label, cell: [label, *map(cell, results)]
    for field in dataclasses.fields(buffers.Memory):
      yield row(f'HBM {field.name}, GiB', lambda r, f=field.name: _gib(
          getattr(r.memory, f)))
    yield row('HBM peak, GiB', lambda r: _gib(r.memory.peak))
    yield row('HBM capacity, GiB', lambda r: _gib(r.capacity))
    yield row('fits', lambda r: 'yes' if r.fits else 'NO')
    yield row('model TFLOPs', lambda r: _tera(r.model_flops))
    yield row('TFLOPs', lambda r: _tera(r.cost.flops))
    yield row('HBM traffic, GB', lambda r: _giga(r.cost.hbm_bytes))
    kinds = {k for r in results for k in r.cost.collectives}
    for kind in sorted(kinds):
      yield row(f'{kind}, count: GB', lambda r, k=kind: _traffic(
          r.cost.collectives.get(k)))
    yield row('sent, GB', lambda r: _giga(r.cost.sent))
    yield row('compute, ms', lambda r: _milli(r.times.compute))
    yield row('HBM, ms', lambda r: _milli(r.times.hbm))
    yield row('interconnect, ms', lambda r: _milli(r.times.ici))
    yield row('roofline, ms', lambda r: _milli(r.times.overlapped))
    yield row('bound by', lambda r: r.times.bound)
    yield row('MFU at most', lambda r: _percent(
        r.utilisation(r.times.overlapped)))
    yield row('MFU without overlap', lambda r: _percent(
        r.utilisation(r.times.serial)))
    if any(r.cost.unknown_loops for r in results):
      yield row('loops counted once', lambda r: str(r.cost.unknown_loops))
    yield row('compiled in, s', lambda r: f'{r.seconds:.0f}')


def _too_large(result: Result) -> Iterator[str]:
  yield (
      f'{result.name} does not fit: it takes {_gib(result.memory.peak)} GiB of '
      f'{_gib(result.capacity)} GiB. Its largest buffers:')
  for buffer in result.largest:
    yield f'  {_gib(buffer.num_bytes):>8} GiB  {buffer.shape}  {buffer.source}'


def _gib(value: float) -> str:
  return f'{value / hardware.GIB:,.2f}'


def _giga(value: float) -> str:
  return f'{value / 1e9:,.2f}'


def _tera(value: float) -> str:
  return f'{value / 1e12:,.2f}'


def _milli(value: float) -> str:
  return f'{value * 1e3:,.2f}'


def _percent(value: float | None) -> str:
  return '-' if value is None else f'{100 * value:.1f}%'


def _traffic(traffic: roofline.Traffic | None) -> str:
  if traffic is None:
    return '-'
  return f'{traffic.count:,.0f}: {traffic.num_bytes / 1e9:,.2f}'
