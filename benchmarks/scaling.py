# SPDX-License-Identifier: Apache-2.0
"""Scaling on paper: programs of an 8B model, compiled for 8 to 4,096 chips.

  pip install libtpu
  python -m benchmarks.scaling --results=docs/results/scaling.json

Compiles supervised training, reinforcement learning and search of Llama 3.1 8B
for v5p slices of growing size, each by the command that its row names, and
prints the tables of docs/scaling.md. Rows that are in the results are not
compiled again, so that what was stopped goes on; `--only=sft,weak` takes the
rows that have all of these words. In `weak` scaling every chip keeps its work;
in `strong` scaling all chips share what does not grow. A row has the command it
was compiled by, and seconds of a machine that may have had other work. Times
are what the chips need at their peaks, see docs/pods.md; none of it has run.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

from benchmarks import compiles
from configs import models
from meta_cot.compile import roofline
from meta_cot.model import config as model_config
from meta_cot.runtime import hardware
from meta_cot.settings import config as config_lib

# Chips, and slices of v5p: the larger ones have axes that a mesh with `model` 8
# divides.
SLICES = {
    (8, 1): 'v5p:2x2x2', (16, 1): 'v5p:2x2x4', (128, 1): 'v5p:4x4x8',
    (1024, 1): 'v5p:8x8x16', (4096, 1): 'v5p:8x16x32',
    (1024, 8): 'v5p:4x4x8', (4096, 4): 'v5p:8x8x16'}
PROGRAMS = ('sft/train_step', 'rl/erl2/rollout', 'rl/erl2/update',
            'search/beam')
_CONFIGS = {'sft': 'configs/llama31.py:8b_v5p_32',
            'rl': 'configs/pretrained.py:llama31_8b',
            'search': 'configs/pretrained.py:llama31_8b'}
_PARTS = 8  # devices that split a model between them, in `rl` and `search`
_ROWS = 512  # of a step in strong scaling of `sft`; as 128 chips have in weak
_REPLICAS = 16  # of the models whose questions strong scaling of `rl` shares
_HEADER = (
    '| chips | mesh | {batch} | HBM, GiB | compute, ms | HBM, ms | links, ms '
    '| between slices, ms | sent, GB | between slices, GB | collectives | '
    'MFU at most | limit |\n' + '|---' * 13 + '|')
_RESOURCES = {'compute': 'compute', 'hbm': 'HBM', 'ici': 'links',
              'dcn': 'between slices'}


@dataclasses.dataclass(frozen=True)
class Cell:
  """One program at one size."""

  program: str
  scaling: str  # weak or strong
  num_chips: int
  num_slices: int

  @property
  def stage(self) -> str:
    return self.program.partition('/')[0]

  def settings(self) -> dict[str, int]:
    """What the config is changed by; the batch comes last."""
    replicas = self.num_chips // _PARTS
    is_weak = self.scaling == 'weak'
    if self.stage != 'sft':
      shared = replicas if is_weak else _REPLICAS
      # What other stages share must divide too, though it is not compiled.
      asked = self._mesh(1, _PARTS) | {
          'sft.data.num_streams': 4 * replicas, 'sft.batch_size': 32 * replicas,
          'rl.questions.num_slots': 128 * shared,
          'rl.questions.num_questions': 32 * shared}
      return asked if self.stage == 'rl' else asked | {
          'search.search.num_slots': 32 * replicas}
    model = 1 if is_weak or 4 * self.num_chips <= _ROWS else _PARTS
    rows = 4 * self.num_chips if is_weak else _ROWS
    return self._mesh(min(16, self.num_chips), model) | {
        'sft.data.num_streams': self.num_chips // model,
        'sft.num_accumulation': max(1, rows // (4 * self.num_chips)),
        'sft.batch_size': rows}

  def _mesh(self, fsdp: int, model: int) -> dict[str, int]:
    return {'mesh.data': self.num_chips // (fsdp * model), 'mesh.fsdp': fsdp,
            'mesh.model': model}

  def command(self) -> list[str]:
    """Makes the arguments of `python` that compile it."""
    slices = [f'--num_slices={self.num_slices}'] * (self.num_slices > 1)
    return [
        '-m', 'meta_cot.compile', f'--config={_CONFIGS[self.stage]}',
        f'--topology={SLICES[self.num_chips, self.num_slices]}', *slices,
        f'--programs={self.program}',
        *(f'--config.{k}={v}' for k, v in self.settings().items())]


def cells() -> Iterator[Cell]:
  """Lists all, by program, scaling and size."""
  for program in PROGRAMS:
    for chips, slices in SLICES:
      yield Cell(program, 'weak', chips, slices)
    for chips, slices in SLICES:
      if program != 'search/beam' and slices == 1 and (
          program.startswith('sft') and chips != 128 or chips == 1024):
        yield Cell(program, 'strong', chips, slices)


def line(cell: Cell, report: dict[str, Any]) -> dict[str, Any]:
  """Takes what the tables have out of the report of one program."""
  (program,) = report['programs']
  settings = config_lib.parse(
      model_config.ModelConfig, models.get('llama31_8b'))
  mesh = report['mesh']
  beside = compiles.BESIDE.get(cell.program, 0) * settings.num_params()
  sent = lambda is_between: sum(
      traffic['sent'] for kind, traffic in program['collectives'].items()
      if kind.endswith(roofline.BETWEEN) == is_between)
  return dataclasses.asdict(cell) | dict(
      topology=report['topology'], mesh=mesh,
      batch=[*cell.settings().values()][-1], tokens=program['tokens'],
      hbm=program['hbm'], beside=beside // (mesh['fsdp'] * mesh['model']),
      seconds=program['seconds'], bound=program['bound'],
      sent=sent(False), sent_between=sent(True),
      num_collectives=sum(
          traffic['count'] for traffic in program['collectives'].values()),
      mfu_overlapped=program['mfu_overlapped'],
      compile_seconds=round(program['compile_seconds']),
      command=' '.join(['python', *cell.command()]))


def limit(row: dict[str, Any]) -> str:
  """Says what breaks first: memory, or the resource that is behind compute.

  Where compute takes longest nothing is broken, and the next one is named.
  """
  hbm, seconds = row['hbm'], row['seconds']
  if hbm['peak'] + row['beside'] > hbm['capacity']:
    return 'memory'
  others = [key for key in _RESOURCES if key != 'compute']
  first = max(others, key=lambda key: seconds[key])
  share = seconds[first] / seconds['compute']
  if share > 1:
    return f'{_RESOURCES[first]}, {share:.1f} x compute'
  return f'compute; {_RESOURCES[first]} {share:.0%}'


def table(results: Sequence[dict[str, Any]], program: str, scaling: str) -> str:
  """Makes the Markdown table of one program.

  That of strong scaling has the rows of weak scaling with the same batch too.
  """
  batch = {'sft': 'rows', 'rl': 'questions', 'search': 'searches'}[
      program.partition('/')[0]]
  rows, ms = [_HEADER.format(batch=batch)], lambda x: f'{1e3 * x:,.1f}'
  shared = {r['batch'] for r in results
            if (r['program'], r['scaling']) == (program, 'strong')}
  for r in sorted(results, key=lambda r: (r['num_chips'], r['num_slices'])):
    is_both = r['batch'] in shared and r['num_slices'] == 1
    if r['program'] != program or scaling != r['scaling'] and not (
        scaling == 'strong' and is_both):
      continue
    slices, seconds = r['num_slices'], r['seconds']
    chips = f'{r["num_chips"]:,}' + f' in {slices} slices' * (slices > 1)
    peak = (r['hbm']['peak'] + r['beside']) / hardware.GIB
    between = [ms(seconds['dcn']), f'{r["sent_between"] / 1e9:.2f}'] if (
        slices > 1) else ['-', '-']
    rows.append('| ' + ' | '.join([
        chips, ' x '.join(map(str, r['mesh'].values())), f'{r["batch"]:,}',
        f'{peak:.1f}', ms(seconds['compute']), ms(seconds['hbm']),
        ms(seconds['ici']), between[0], f'{r["sent"] / 1e9:.2f}', between[1],
        f'{r["num_collectives"]:,.0f}', f'{r["mfu_overlapped"]:.1%}',
        limit(r)]) + ' |')
  return '\n'.join(rows)


def tables(results: Sequence[dict[str, Any]]) -> str:
  """Makes all tables, each under its program."""
  names = dict.fromkeys((r['program'], r['scaling']) for r in results)
  return '\n\n'.join(
      f'`{program}`, {scaling} scaling\n\n{table(results, program, scaling)}'
      for program, scaling in names)


def cell_of(row: dict[str, Any]) -> Cell:
  """Finds the cell that a row is of."""
  return Cell(*(row[field.name] for field in dataclasses.fields(Cell)))


def main(argv: list[str] | None = None) -> None:
  """Compiles what the results lack, and prints the tables."""
  texts = {
      cell: (*cell.command(), cell.program, cell.scaling, str(cell.num_chips))
      for cell in cells()}
  print(tables(compiles.complete(
      argv, __doc__, texts, cell_of,
      lambda cell: line(cell, compiles.report(cell.command())),
      [*texts].index)))


if __name__ == '__main__':
  main()
