# SPDX-License-Identifier: Apache-2.0
"""A training objective of one's own: two functions and a line in a table."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from data_pipelines import arms
from data_pipelines import examples
from meta_cot.settings import config as config_lib
from meta_cot.stages.train import programs as programs_lib
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import objective as objective_lib
from meta_cot.training import policy as policy_lib
from meta_cot.training import supervised
from tests import small_training


@dataclasses.dataclass(frozen=True)
class _Weighted:
  """The sequences of an arm, weighted by how short its search was."""

  texts: examples.Texts
  is_random: bool = False

  def __call__(self, record, rng):
    example = self.texts(record, rng)
    if example is None:
      return None
    example['weights'] *= 1 / len(record.nodes)
    return example


def _example(arm: arms.Arm, config, tokenizer, style, *, is_training):
  return _Weighted(supervised.example(
      arm, config, tokenizer, style, is_training=is_training))


_WEIGHTED = types.SimpleNamespace(
    example=_example, loss=supervised.loss, about=supervised.about)


@pytest.fixture
def objectives(monkeypatch):
  """A line in OBJECTIVES, before settings are declared."""
  table = {**objective_lib.OBJECTIVES, 'weighted': _WEIGHTED}
  monkeypatch.setattr(objective_lib, 'OBJECTIVES', table)
  field, = (f for f in dataclasses.fields(programs_lib.Settings)
            if f.name == 'objective')
  monkeypatch.setattr(
      field, 'metadata', {**field.metadata, 'choices': tuple(table)})


@pytest.mark.usefixtures('objectives')
def test_another_objective_trains(tmp_path):
  losses, params = {}, {}
  for name in ('sft', 'weighted'):
    context = small_training.run(
        tmp_path, (1, 1, 1), num_tokens=1_200, objective=name)
    folder = context.workdir / 'sft' / 'solution_only'
    rows = metrics_lib.read(folder / 'metrics.jsonl')
    assert [row['step'] for row in rows] == [1, 2]
    losses[name] = rows[0]['loss']
    there = policy_lib.read(folder)
    assert there.about['objective'] == name
    params[name] = jax.tree.leaves(there.params(context.mesh))
  assert all(np.isfinite(list(losses.values())))
  assert losses['sft'] != losses['weighted']
  assert any(
      not np.array_equal(a, b) for a, b in zip(*params.values(), strict=True))


def test_an_unknown_objective_is_one_line(tmp_path):
  with pytest.raises(config_lib.ConfigError, match=(
      "config.sft.objective: got 'weighted'; .*sft")):
    small_training.run(tmp_path, (1, 1, 1), objective='weighted')
