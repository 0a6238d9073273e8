# SPDX-License-Identifier: Apache-2.0
"""Released models compiled for TPUs: their config, and the docs' table."""

import json
import pathlib

import libtpu
import pytest

from benchmarks import compiles
from configs import models
from configs import pretrained
from meta_cot.compile import __main__ as compile_lib
from meta_cot.stages import experiment as experiment_lib

assert libtpu  # the compiler; without it nothing here can be tested
ROOT = pathlib.Path(__file__).parents[1]
RESULTS = 'docs/results/pretrained_compiled.json'


@pytest.mark.parametrize('variant', pretrained.VARIANTS)
def test_variants_have_the_published_shapes(variant):
  model = experiment_lib.parse(pretrained.get_config(variant)).shared.model
  published = models.get(variant)
  for name in ('vocab_size', 'num_layers', 'embed_dim', 'mlp_dim'):
    assert getattr(model, name) == published[name]
  assert set(compiles.SLICES) == set(pretrained.VARIANTS)


def test_the_table_is_that_of_the_results_and_everything_fits():
  results = json.loads((ROOT / RESULTS).read_text())
  assert compiles.table(results) in (ROOT / 'docs/pods.md').read_text()
  for row in results:
    cell = row['model'], row['topology'], row['program']
    assert cell in [*compiles.cells()] and compiles.fits(row)
    assert row['command'] == ' '.join(['python', *compiles.command(*cell)])


def test_a_row_is_made_of_a_report(capsys):
  compile_lib.main([
      '--config=configs/countdown.py:tiny', '--topology=v5e:2x2',
      '--programs=sft/init', '--config.model.num_layers=1', '--json'])
  report = json.loads(capsys.readouterr().out)
  report['programs'][0]['name'] = 'rl/erl2/update'
  report['programs'][0]['hbm']['peak'] = 9 * 2**30  # of 15.75, fits alone
  row = compiles.line('llama31_8b', report, 'python -m x')
  assert row['num_devices'] == 4 and not compiles.fits(row)
  assert row['beside'] == 8_030_265_345  # 4 bytes a parameter, on 4 devices
  (line,) = compiles.table([row]).splitlines()[2:]
  assert line.startswith('| `llama31_8b` | `rl/erl2/update` | v5e:2x2 | 4 x 1')
  assert 'does not fit | 7.5 |' in line


@pytest.mark.slow
@pytest.mark.parametrize('model, topology, program', [*compiles.cells()])
def test_every_program_fits(model, topology, program):
  assert compiles.fits(compiles.compiled(model, topology, program))
