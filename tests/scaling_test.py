# SPDX-License-Identifier: Apache-2.0
"""The cells of `benchmarks.scaling`, and what its tables say of them."""

import json
import pathlib

import pytest

from benchmarks import scaling
from meta_cot.compile import topology as topology_lib

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = json.loads((ROOT / 'docs/results/scaling.json').read_text())


def test_the_page_has_the_tables_of_the_results():
  assert scaling.tables(RESULTS) in (ROOT / 'docs/scaling.md').read_text()
  known = [*scaling.cells()]
  for row in RESULTS:
    cell = scaling.cell_of(row)
    assert cell in known
    asked = row['command'].split()
    assert asked[1:5] == cell.command()[:4]
    assert f'--programs={cell.program}' in asked


@pytest.mark.parametrize('cell', [*scaling.cells()])
def test_cells_share_their_work(cell):
  """Meshes take all chips; weak scaling gives each chip the same."""
  settings = cell.settings()
  parts = settings['mesh.data'] * settings['mesh.fsdp']
  assert parts * settings['mesh.model'] == cell.num_chips
  assert settings['mesh.data'] % cell.num_slices == 0
  batch = [*settings.values()][-1]
  first = next(c for c in scaling.cells() if (
      c.program, c.scaling) == (cell.program, cell.scaling))
  expected = [*first.settings().values()][-1]
  if cell.scaling == 'weak':
    expected *= cell.num_chips / first.num_chips
  assert batch == expected and batch % parts == 0


@pytest.mark.parametrize('chips, slices', scaling.SLICES)
def test_the_slices_are_known(chips, slices):
  found = topology_lib.find(scaling.SLICES[chips, slices], slices)
  assert len(found.devices) == chips


def _row(**changes):
  cell = scaling.Cell('sft/train_step', 'weak', 128, 1)
  report = dict(
      topology='v5p:4x4x8', mesh=dict(data=8, fsdp=16, model=1), programs=[dict(
          tokens=4096, bound='compute', mfu_overlapped=.5, compile_seconds=1.2,
          hbm=dict(peak=64 * 2**30, capacity=95 * 2**30),
          seconds=dict(compute=.002, hbm=.001, ici=.0005, dcn=0.0),
          collectives={
              'all-gather': dict(count=3.0, num_bytes=5e9, sent=4e9),
              'all-reduce between slices': dict(
                  count=2.0, num_bytes=1e9, sent=1e9)})])
  return scaling.line(cell, report) | changes


def test_what_breaks_first():
  assert scaling.limit(_row()) == 'compute; HBM 50%'
  seconds = dict(compute=.002, hbm=.001, ici=.0005, dcn=.005)
  assert scaling.limit(_row(seconds=seconds)) == (
      'between slices, 2.5 x compute')
  assert scaling.limit(_row(beside=32 * 2**30)) == 'memory'


def test_a_row_of_the_table():
  row = _row(num_slices=4)
  assert (row['sent'], row['sent_between'], row['num_collectives']) == (
      4e9, 1e9, 5)
  (line,) = scaling.table([row], 'sft/train_step', 'weak').splitlines()[2:]
  assert line == (
      '| 128 in 4 slices | 8 x 16 x 1 | 512 | 64.0 | 2.0 | 1.0 | 0.5 | 0.0 '
      '| 4.00 | 1.00 | 5 | 50.0% | compute; HBM 50% |')
  shared = _row(scaling='strong', num_chips=1024)
  both = scaling.table([_row(), shared], 'sft/train_step', 'strong')
  assert [r.split()[1] for r in both.splitlines()[2:]] == ['128', '1,024']
