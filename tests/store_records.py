# SPDX-License-Identifier: Apache-2.0
"""Small trace records to fill a store with."""

import time

from data_pipelines import store
from meta_cot.problem import Problem
from meta_cot.traces import record as record_lib

NUM_RECORDS = 23


def make_record(index):
  nodes = (
      record_lib.Node(parent=-1, step='', state=f'{index},2', order=0),
      record_lib.Node(
          parent=0, step=f'{index}+2={index + 2}', state=str(index + 2),
          is_terminal=True, is_correct=index % 3 == 0))
  return record_lib.TraceRecord(
      problem=Problem(f'p{index}', f'{index},2>{index + 2}', '', {}),
      strategy='dfs_sum', arguments={}, seed=index, model='symbolic',
      nodes=nodes, solution=(0, 1) if index % 3 == 0 else (),
      traversal='depth_first')


def make_records(start, stop):
  for index in range(start, stop):
    yield make_record(index)


def make_slowly(start, stop):
  for index in range(start, stop):
    time.sleep(0.05)
    yield make_record(index)


def make_nothing(start, stop):
  raise ValueError(f'nothing works in {start}..{stop}')
  yield


def generate(directory, make=make_records, **changes):
  settings = dict(
      kind='trace', split='train', num_records=NUM_RECORDS, num_shards=4,
      arguments={'strategy': 'dfs', 'seed': 1}, num_processes=1)
  return store.generate(directory, make, **{**settings, **changes})


def contents(directory):
  return {p.name: p.read_bytes() for p in directory.iterdir()}
