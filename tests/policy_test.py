# SPDX-License-Identifier: Apache-2.0
"""Policy folders: what training leaves is read without an optimiser."""

import functools
import json
import shutil

from etils import epath
import jax
import numpy as np
import pytest

from data_pipelines import tokenizers
from data_pipelines.tokenizers import sentencepiece
from meta_cot import sharding
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib
from meta_cot.training import checkpoint
from meta_cot.training import optimizer
from meta_cot.training import policy as policy_lib
from meta_cot.training import state as state_lib
from tests import small_training


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A context in whose workdir a policy was trained on four devices."""
  return small_training.run(tmp_path_factory.mktemp('workdir'), (2, 2, 1))


@pytest.fixture
def folder(trained, tmp_path):
  """A copy of its folder."""
  shutil.copytree(
      trained.workdir / 'sft' / 'solution_only', tmp_path / 'policy')
  return epath.Path(tmp_path / 'policy')


class _NoData:
  """Streams of nobody: only arrays are of interest."""

  def stream_names(self):
    return ()

  def get_state(self):
    return {}

  def set_state(self, state):
    assert not state


def _full_state(context, directory, step):
  """Everything that a checkpoint holds, as training reads it."""
  settings = context.groups['sft'].settings
  abstract, _ = state_lib.shardings(
      functools.partial(transformer.init, context.shared.model),
      optimizer.make(settings.optimizer, 10), context.mesh)
  checkpoints = checkpoint.Checkpoints(
      directory / 'checkpoints', settings.max_to_keep)
  state = checkpoints.restore(abstract, _NoData(), step=step)
  checkpoints.close()
  return state


def _mesh(*axes):
  return sharding.make_mesh(
      sharding.MeshConfig(*axes), jax.devices()[:int(np.prod(axes))])


@pytest.mark.parametrize('axes', [(1, 1, 1), (2, 2, 2)])
def test_parameters_are_those_of_the_full_checkpoint(trained, folder, axes):
  there = policy_lib.read(folder)
  first, *_, last = there.steps()
  for step in (first, last, None):
    mesh = _mesh(*axes)
    params = there.params(mesh, step)
    expected = _full_state(trained, folder, step or last).params
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for found, wanted, planned in zip(
        jax.tree.leaves(params), jax.tree.leaves(expected),
        jax.tree.leaves(policy_lib.abstract(there.model, mesh)), strict=True):
      np.testing.assert_array_equal(found, wanted)
      assert found.sharding == planned.sharding
  one, two = there.params(mesh, first), there.params(mesh, last)
  assert not np.array_equal(
      jax.tree.leaves(one)[0], jax.tree.leaves(two)[0])


def test_a_policy_says_what_it_is(trained, folder):
  there = policy_lib.read(folder)
  assert there.model == trained.shared.model and there.style == 'compact_digits'
  assert there.about['arm'] == 'solution_only'
  assert there.about['objective'] == 'sft'
  assert there.tokenizer().fingerprint == tokenizers.load(
      trained.workdir / 'tokenizer').fingerprint


def _refused(call, message):
  with pytest.raises(config_lib.UserError) as e:
    call()
  assert message in str(e.value)
  assert '\n' not in str(e.value)


def test_another_schema_and_no_policy_are_one_line(folder):
  path = folder / 'policy.json'
  raw = json.loads(path.read_text())
  path.write_text(json.dumps(raw | dict(schema=0)))
  _refused(lambda: policy_lib.read(folder),
           f'{path}: schema 0, this version reads 1; train or import')
  path.write_text(json.dumps(raw | dict(model=raw['model'] | dict(width=3))))
  _refused(lambda: policy_lib.read(folder), f'{path}: model.width: no such key')
  path.write_text('{"schema":')
  _refused(lambda: policy_lib.read(folder), str(path))
  path.unlink()
  _refused(lambda: policy_lib.read(folder),
           f'{path}: no such file; this is no policy folder')


def test_missing_and_damaged_checkpoints_are_one_line(folder):
  there = policy_lib.read(folder)
  step = there.steps()[-1]
  mesh = _mesh(1, 1, 1)
  damaged = folder / 'checkpoints' / str(step) / 'state' / '_METADATA'
  damaged.write_bytes(damaged.read_bytes()[:-1])
  _refused(lambda: there.params(mesh),
           f'{folder}/checkpoints/{step}: this checkpoint is damaged '
           '(state/_METADATA: ')
  there.params(mesh, there.steps()[0])  # another one is whole
  (folder / 'checkpoints').rmtree()
  _refused(lambda: there.params(mesh),
           f'{folder}/checkpoints: no checkpoint; this policy is not trained')


def test_another_tokenizer_or_none_is_one_line(folder):
  there = policy_lib.read(folder)
  sentencepiece.train(['1+2=3'], 128).save(folder / 'tokenizer')
  _refused(there.tokenizer, f'{folder}/tokenizer: not the tokenizer that ')
  (folder / 'tokenizer').rmtree()
  _refused(there.tokenizer, f'{folder}/tokenizer: ')


def test_arrays_of_another_model_are_one_line(folder):
  path = folder / 'policy.json'
  raw = json.loads(path.read_text())
  path.write_text(json.dumps(raw | dict(model=raw['model'] | dict(mlp_dim=24))))
  _refused(lambda: policy_lib.read(folder).params(_mesh(1, 1, 1)),
           'arrays differ from those of the checkpoint')
