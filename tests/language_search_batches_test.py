# SPDX-License-Identifier: Apache-2.0
"""A problem's tree over a language model: alone, in batches, on devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import sharding
from meta_cot.model import transformer
from tests import language_search

BATCH = 32
STRATEGIES = ('best_first', 'beam', 'gumbel')


def searched(name):
  return language_search.searched(
      'llama', 'scan', language_search.STRATEGIES[name], BATCH)


def run(name, rows, ids_B):
  """The search of some of the prompts, with the ids that are given."""
  config, params = language_search.make_model(loop='scan')
  prompts_BxP, lengths_B = language_search.make_prompts(BATCH)
  return language_search.run(
      language_search.make_step(config), language_search.STRATEGIES[name],
      params, prompts_BxP[rows], lengths_B[rows], jnp.asarray(ids_B))


@pytest.mark.parametrize('name', [
    'best_first', 'gumbel', pytest.param('beam', marks=pytest.mark.slow)])
def test_a_problem_is_searched_alike_in_any_batch(name):
  together = searched(name)
  for b in (0, 13, 31):
    rows = slice(b, b + 1)
    alone = run(name, rows, [b])
    language_search.same_trees(
        alone.tree, jax.tree.map(lambda x, r=rows: x[r], together.tree))
    np.testing.assert_array_equal(
        alone.solution_index, together.solution_index[rows])
  order = np.random.default_rng(0).permutation(BATCH)
  shuffled = run(name, order, order)
  language_search.same_trees(
      shuffled.tree, jax.tree.map(lambda x: x[order], together.tree))
  # The draws are the problem's own.
  others = run(name, slice(None), np.arange(BATCH) + BATCH)
  assert np.any(
      others.tree.embeddings.tokens != together.tree.embeddings.tokens)


@pytest.mark.parametrize('name', STRATEGIES)
def test_a_run_that_is_repeated_gives_the_same_bits(name):
  again = run(name, slice(None), np.arange(BATCH))
  jax.tree.map(np.testing.assert_array_equal, again, searched(name))


@pytest.mark.parametrize('data, model, name', [
    pytest.param(8, 1, 'best_first', marks=pytest.mark.slow),
    (8, 1, 'gumbel'), (4, 2, 'beam')])
def test_eight_devices_search_as_one(data, model, name):
  config, params = language_search.make_model(loop='scan')
  mesh = sharding.make_mesh(sharding.MeshConfig(data=data, fsdp=1, model=model))
  boxed = jax.eval_shape(
      lambda rng: transformer.init(config, rng), jax.random.key(0))
  with sharding.use_mesh(mesh):
    params = jax.device_put(params, sharding.of_params(mesh, boxed))
    arrays = jax.device_put(
        (*language_search.make_prompts(BATCH), jnp.arange(BATCH)),
        sharding.batch(mesh))
    compiled = language_search.run.lower(
        language_search.make_step(config), language_search.STRATEGIES[name],
        params, *arrays).compile()
    found = compiled(params, *arrays)
  language_search.same_trees(found.tree, searched(name).tree)
  assert len(found.tree.values.sharding.device_set) == 8
  if model == 1:  # problems stay where they are
    assert not re.findall(
        r'all-gather|all-to-all|collective-permute', compiled.as_text())
