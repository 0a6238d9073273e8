# SPDX-License-Identifier: Apache-2.0
"""The largest batches that `meta_cot.compile.fit` found, as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from meta_cot.compile import fit
from meta_cot.compile import report as report_lib
from meta_cot.runtime import hardware

_HEADER = (
    'setting', 'largest', 'in steps of', 'a device at once', 'remat',
    'cut into', 'worst program', 'HBM, GiB', 'beside', 'of', 'roofline, ms',
    'MFU at most', 'compiled')


def as_text(header: Mapping[str, Any], answers: Sequence[fit.Answer]) -> str:
  """Makes a table, a line per setting and remat; below it what breaks.

  Args:
    header: as that of `report.as_text`.
    answers: of one stage.
  """
  lines = [report_lib.title(header), '']
  lines += report_lib.aligned([_HEADER, *map(_row, answers)])
  for answer in answers:
    if not answer.largest:
      lines += [
          '', f'{answer.field}={answer.unit}, the smallest on this mesh, does '
          f'not fit with remat {answer.remat!r}. '
          'Largest buffers:', *report_lib.buffers(answer.worst)]
    elif answer.is_most:
      lines += ['', f'{answer.field}: a larger one would change nothing.']
  return '\n'.join(lines)


def _row(answer: fit.Answer) -> list[str]:
  worst = answer.worst
  gib = lambda x: f'{x / hardware.GIB:,.2f}'
  return [
      answer.field, f'{answer.largest:,}' if answer.largest else 'none',
      f'{answer.unit:,}', f'{answer.per_device:,}', answer.remat,
      ', '.join(f'{k.rpartition(".")[2]} {v}'
                for k, v in answer.pieces.items()) or '-',
      worst.name, gib(worst.memory.peak), gib(answer.beside[worst.name]),
      gib(worst.capacity), f'{1e3 * worst.times.overlapped:,.2f}',
      report_lib.percent(worst.utilisation(worst.times.overlapped)),
      f'{len(answer.tried)} sizes']
