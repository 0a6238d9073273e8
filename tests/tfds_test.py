# SPDX-License-Identifier: Apache-2.0
"""Folders of records as datasets of TFDS, with the real package."""

import json
import sys

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import file_utils
from tensorflow_datasets.scripts.cli import build
from tensorflow_datasets.scripts.cli import cli_utils

from data_pipelines import store
from data_pipelines.tfds import meta_cot_records
from meta_cot import tasks
from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.tasks.texts import rows
from tests import store_records


def _problem(index):
  return Problem(
      f'p{index}', f'What is {index} + {index}, é?', str(2 * index),
      dict(level=index, steps=[
          f'{index} + {index} = {2 * index}.',
          rf'The answer is \boxed{{{2 * index}}}.']))


def _problems(folder, split, number):
  store.generate(
      folder, lambda start, stop: map(_problem, range(start, stop)),
      kind='problem', split=split, num_records=number, num_shards=2,
      arguments={}, num_processes=1)


@pytest.fixture(name='data_dir')
def _data_dir(tmp_path, monkeypatch):
  """A folder of datasets that TFDS looks into."""
  monkeypatch.setattr(file_utils, '_REGISTERED_DATA_DIRS', set())
  tfds.core.add_data_dir(tmp_path / 'data')
  return str(tmp_path / 'data')


def _prepare(folder, data_dir) -> tfds.core.DatasetBuilder:
  made = meta_cot_records.builder(folder, data_dir=data_dir)
  made.download_and_prepare()
  return made


def test_searches_come_back_as_they_were(tmp_path, data_dir):
  folder = tmp_path / 'run' / 'traces'
  store_records.generate(folder)
  store_records.generate(folder, split='validation', num_records=2)
  made = _prepare(folder, data_dir)
  assert made.info.full_name == 'meta_cot_records/run_traces/1.0.0'
  assert {k: s.num_examples for k, s in made.info.splits.items()} == dict(
      train=store_records.NUM_RECORDS, validation=2)
  found = tfds.data_source(
      'meta_cot_records/run_traces', split='train', data_dir=data_dir)
  assert found[3]['problem']['question'] == b'3,2>5'
  assert [*found[3]['solution']] == [0, 1]
  assert [*map(meta_cot_records.from_example, found)] == [
      *store.read(folder, 'train')]


def test_problems_are_rows_of_a_task(tmp_path, data_dir):
  folder = tmp_path / 'run' / 'problems'
  _problems(folder, 'train', 30)
  _problems(folder, 'test', 0)  # TFDS has no splits without examples
  assert [*_prepare(folder, data_dir).info.splits] == ['train']
  source = 'tfds:meta_cot_records/run_problems:train'
  found = [*rows.read(source)]
  assert [row.place for row in found][:2] == [f'{source}, row 0',
                                              f'{source}, row 1']
  written = [*store.read(folder, 'train')]
  assert [meta_cot_records.from_example(r.values) for r in found] == written
  settings = tasks.settings_of('math')(
      train=(source,), test=(), validation_fraction=0.2, test_fraction=0.2,
      num_train=None, num_heldout=None, max_bad_fraction=0.0)
  task = tasks.make('math', settings)
  again = {p.question: p for split in task.splits
           for p in task.problems(split, 0, task.size(split))}
  assert {q: (p.answer, p.data['steps']) for q, p in again.items()} == {
      p.question: (p.answer, p.data['steps']) for p in written}


def test_what_the_command_of_tfds_does_needs_no_tensorflow(tmp_path):
  folder = tmp_path / 'traces'
  store_records.generate(folder)
  config = json.dumps(dict(name='mine', folder=str(folder)))
  parse = cli_utils.make_flags_parser(build.Args, description='build')
  parse([
      '', 'data_pipelines/tfds/meta_cot_records.py', f'--config={config}',
      f'--data_dir={tmp_path / "data"}']).execute()
  assert 'tensorflow' not in sys.modules
  found = tfds.data_source(
      'meta_cot_records/mine', split='train', data_dir=str(tmp_path / 'data'))
  assert meta_cot_records.from_example(found[5]) == (
      store_records.make_record(5))


def test_wrong_folders_and_datasets_are_one_line(tmp_path, data_dir):
  with pytest.raises(config_lib.UserError, match='manifest.json: no such file'):
    meta_cot_records.builder(tmp_path / 'no', data_dir=data_dir)
  with pytest.raises(config_lib.UserError, match='no folder; name one'):
    meta_cot_records.MetaCotRecords(data_dir=data_dir)
  with pytest.raises(config_lib.UserError, match='tfds:nothing:train') as error:
    [*rows.read('tfds:nothing:train')]
  assert '\n' not in str(error.value)
