# SPDX-License-Identifier: Apache-2.0
"""Which slices the programs of released models fit into, one after the other.

  pip install libtpu
  python -m benchmarks.compiles --results=docs/results/pretrained_compiled.json

Compiles programs of configs/pretrained.py for TPUs that are not here, each by
the command that its row of the table names, and prints the table of
docs/pods.md. Programs that are in the results are not compiled again, so that
what was stopped goes on; `--only=gemma3_27b,v6e` takes the rows that have all
of these words. `beside` is what a stage holds of a device while the program
runs that is not in it: a policy's moments, the weights of a reference, and
those that a search has cast.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import json
import pathlib
import subprocess
import sys
from typing import Any

from configs import models
from meta_cot.model import config as model_config
from meta_cot.runtime import hardware
from meta_cot.settings import config as config_lib

# The smallest slices, by the bytes of weights, moments, gradients and inputs of
# blocks.
SLICES = {
    'llama31_8b': ('v5p:2x2x1', 'v6e:2x4'),
    'gemma3_27b': ('v5p:2x2x2', 'v6e:4x8'),
    'llama31_70b': ('v5p:2x4x4', 'v6e:8x8')}
PROGRAMS = (
    'sft/train_step', 'search/beam', 'rl/erl2/rollout', 'rl/erl2/update')
# Sizes of a mesh are products of some of those of the slice.
_MESH = {'v6e:8x8': 8}  # devices of a model axis; of others 4
# Bytes a parameter that a stage holds beside a program: of a rollout, weights
# of the reference and two moments of the policy's; of an update the reference;
# of a search the weights before they are cast.
BESIDE = {'rl/erl2/rollout': 12, 'rl/erl2/update': 4, 'search/beam': 4}
_HEADER = (
    '| model | program | slice | mesh | HBM, GiB a device | beside | of '
    '| compiled in, s |\n|---|---|---|---|---|---|---|---|')


def cells() -> Iterator[tuple[str, str, str]]:
  """Lists (model, slice, program), the cheapest first."""
  for program in PROGRAMS:
    for model, slices in SLICES.items():
      for topology in slices:
        yield model, topology, program


def command(model: str, topology: str, program: str) -> list[str]:
  """Makes the arguments of `python` that compile one program."""
  return ['-m', 'meta_cot.compile', f'--config=configs/pretrained.py:{model}',
          f'--topology={topology}', f'--programs={program}',
          f'--config.mesh.model={_MESH.get(topology, 4)}']


def compiled(model: str, topology: str, program: str) -> dict[str, Any]:
  """Compiles one program; its line of the results."""
  asked = command(model, topology, program)
  return line(model, report(asked), ' '.join(['python', *asked]))


def report(asked: Sequence[str]) -> dict[str, Any]:
  """Runs `python -m meta_cot.compile ...`; what it prints as JSON.

  Raises:
    UserError: the command failed; its messages are above.
  """
  print('python', *asked, file=sys.stderr, flush=True)
  done = subprocess.run(
      [sys.executable, *asked, '--json'], stdout=subprocess.PIPE, text=True)
  if done.returncode not in (0, 1) or not done.stdout:  # 1: it does not fit
    raise config_lib.UserError(
        f'python {" ".join(asked)}: exit code {done.returncode}; its messages '
        'are above.')
  return json.loads(done.stdout)


def line(model: str, report: dict[str, Any], asked: str) -> dict[str, Any]:
  """Takes what the table has out of the report of one program."""
  (program,) = report['programs']
  settings = config_lib.parse(model_config.ModelConfig, models.get(model))
  beside = BESIDE.get(program['name'], 0) * settings.num_params()
  return dict(
      model=model, topology=report['topology'], program=program['name'],
      mesh=report['mesh'], num_devices=report['num_devices'],
      hbm=program['hbm'], beside=beside // report['num_devices'],
      largest_buffers=program['largest_buffers'][:3],
      bound=program['bound'], seconds=program['seconds'],
      compile_seconds=round(program['compile_seconds']), command=asked)


def _place(cell: tuple[str, str, str]) -> tuple[int, int]:
  """Where a row stands: by model and slice, then by program."""
  model, topology, program = cell
  slices = [(m, topology) for m, some in SLICES.items() for topology in some]
  return slices.index((model, topology)), PROGRAMS.index(program)


def fits(row: dict[str, Any]) -> bool:
  """Tells whether a device holds the program and what is beside it."""
  return row['hbm']['peak'] + row['beside'] <= row['hbm']['capacity']


def table(results: Sequence[dict[str, Any]]) -> str:
  """Makes the Markdown table of results."""
  gib = lambda x: f'{x / hardware.GIB:.1f}'
  rows = [_HEADER]
  for r in results:
    mesh = ' x '.join(map(str, r['mesh'].values()))
    beside = gib(r['beside']) if r['beside'] else '-'
    no = '' if fits(r) else ', does not fit'
    rows.append(
        f'| `{r["model"]}` | `{r["program"]}` | {r["topology"]} | {mesh} '
        f'| {gib(r["hbm"]["peak"])}{no} | {beside} '
        f'| {gib(r["hbm"]["capacity"])} | {r["compile_seconds"]} |')
  return '\n'.join(rows)


def complete(
    argv: Sequence[str] | None, description: str, cells: Mapping[Any, Sequence],
    cell_of: Callable[[dict[str, Any]], Any],
    make: Callable[[Any], dict[str, Any]],
    place: Callable[[Any], Any],
) -> list[dict[str, Any]]:
  """Makes the rows that `--results` lacks, saved one by one; returns all.

  Args:
    argv: has --results, and --only, words that a row's texts must have.
    description: of the command.
    cells: the texts of every row's cell, in the order in which they are made.
    cell_of: the cell of a row.
    make: the row of a cell.
    place: where the row of a cell stands.
  """
  parser = argparse.ArgumentParser(
      description=description, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--results', type=pathlib.Path, required=True)
  parser.add_argument('--only', default='')
  arguments = parser.parse_args(argv)
  path, results = arguments.results, []
  if path.is_file():
    results = json.loads(path.read_text())
  known = {*map(cell_of, results)}
  words = [*filter(None, arguments.only.split(','))]
  for cell, texts in cells.items():
    if cell not in known and all(
        any(word in text for text in texts) for word in words):
      results = sorted(
          [*results, make(cell)], key=lambda row: place(cell_of(row)))
      path.write_text(json.dumps(results, indent=1) + '\n')
  return results


def main(argv: list[str] | None = None) -> None:
  """Compiles what the results lack, and prints the table."""
  print(table(complete(
      argv, __doc__, {cell: cell for cell in cells()},
      lambda row: (row['model'], row['topology'], row['program']),
      lambda cell: compiled(*cell), _place)))


if __name__ == '__main__':
  main()
