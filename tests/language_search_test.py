# SPDX-License-Identifier: Apache-2.0
"""Every strategy over a language model: faithful, and nothing read twice."""

import functools

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import decode
from meta_cot import search
from meta_cot.model import transformer
from meta_cot.search import tree as tree_lib
from tests import language_search

BATCH = 8


_FEW = 'beam', 'uct', 'gumbel'


@pytest.mark.parametrize('name', [
    *_FEW, *(pytest.param(name, marks=pytest.mark.slow)
             for name in language_search.STRATEGIES if name not in _FEW)])
def test_every_node_equals_a_plain_forward_pass(name):
  config, params = language_search.make_model(loop='scan')
  prompts = language_search.make_prompts(BATCH)
  output = language_search.searched(
      'llama', 'scan', language_search.STRATEGIES[name], BATCH)
  num_nodes = language_search.check_faithful(config, params, output, *prompts)
  assert num_nodes > 10 * BATCH and int(output.tree.depths.max()) > 2
  assert np.all(output.is_done)


def passes(jaxpr, loops=0):
  """(shape of the tokens, loops around it) of every pass of the trunk."""
  found = []
  for equation in jaxpr.eqns:
    if equation.params.get('name') == 'a_pass':
      found.append((equation.invars[-1].aval.shape, loops))
      continue
    inside = loops + (equation.primitive.name == 'while')
    for below in core.jaxprs_in_params(equation.params):
      found += passes(below, inside)
  return found


def mark_passes(monkeypatch):
  """Makes every pass over a model one that `passes` finds, and no other."""
  decode_hidden = transformer.decode_hidden

  def counted(config, params, tokens_BxL, *args, **keywords):
    @jax.jit
    def a_pass(tokens_BxL):
      return decode_hidden(config, params, tokens_BxL, *args, **keywords)

    return a_pass(tokens_BxL)

  monkeypatch.setattr(transformer, 'decode_hidden', counted)
  for other in ('forward', 'hidden', 'decode'):
    monkeypatch.setattr(transformer, other, None)


@pytest.mark.parametrize('name', language_search.STRATEGIES)
def test_one_pass_over_the_prompts_and_one_per_new_token(name, monkeypatch):
  """The program has these passes, and no other for values or anything."""
  mark_passes(monkeypatch)
  config, params = language_search.make_model(loop='scan')
  # Another temperature: nothing that was traced before is used again.
  step = language_search.make_step(config, sampling=decode.Sampling(0.9))
  traced = language_search.run.trace(
      step, language_search.STRATEGIES[name], params,
      *language_search.make_prompts(BATCH), jnp.arange(BATCH))
  width = dict(beam=3, dvts=2, breadth_first=3, best_first=2, puct=3, gumbel=2)
  children = BATCH * width.get(name, 1) * step.branching
  assert passes(traced.jaxpr.jaxpr) == [
      ((BATCH, language_search.NUM_PROMPT), 0), ((children, 1), 2)]


def test_no_token_is_read_twice(monkeypatch):
  config, params = language_search.make_model(loop='scan')
  prompts_1xP, lengths_1 = language_search.make_prompts(1)
  read, decode_hidden = [], transformer.decode_hidden

  def counted(config, params, tokens_BxL, *args, **keywords):
    jax.debug.callback(lambda: read.append(tokens_BxL.shape))
    return decode_hidden(config, params, tokens_BxL, *args, **keywords)

  monkeypatch.setattr(transformer, 'decode_hidden', counted)
  strategy = functools.partial(
      search.best_first, num_expansions=5, max_depth=4)
  output = language_search.run(
      language_search.make_step(config, sampling=decode.Sampling(0.9)),
      strategy, params, prompts_1xP, lengths_1, jnp.arange(1))
  jax.effects_barrier()
  assert read[0] == prompts_1xP.shape
  tree = jax.tree.map(lambda x: np.asarray(x[0]), output.tree)
  # Of every expansion as many passes as its longest child has tokens.
  num_passes = sum(
      tree.embeddings.page.length[first:first + 3].max()
      for first in tree.first_child if first != tree_lib.NONE)
  assert read[1:] == [(3, 1)] * int(num_passes)


def the_same(problem, tokens_M, length):
  del problem, tokens_M, length
  return jnp.zeros(2, jnp.uint32)


@pytest.mark.parametrize('name', [
    pytest.param('best_first', marks=pytest.mark.slow), 'puct'])
def test_roots_that_are_over_and_leaves_without_children(name):
  """All states are one: below the first child that is kept there are none."""
  config, params = language_search.make_model(loop='scan')
  is_over_B = np.arange(BATCH) % 2 == 0
  output = jax.device_get(language_search.run(
      language_search.make_step(config, state_key=the_same),
      functools.partial(
          language_search.STRATEGIES[name], merge_states=True),
      params, *language_search.make_prompts(BATCH), jnp.arange(BATCH),
      is_terminal_B=is_over_B))
  tree = output.tree
  assert output.is_done.all()
  np.testing.assert_array_equal(tree.num_nodes[is_over_B], 1)
  np.testing.assert_array_equal(output.solution_index[is_over_B], 0)
  np.testing.assert_array_equal(
      output.solution_value[is_over_B], tree.values[is_over_B, 0])
  others = ~is_over_B
  np.testing.assert_array_equal(np.sum(tree.is_valid[others], axis=1), 2)
  is_end_B = tree.is_terminal[others, 1]
  np.testing.assert_array_equal(
      tree.num_expansions[others], np.where(is_end_B, 1, 2))
  np.testing.assert_array_equal(
      output.solution_index[others], np.where(is_end_B, 1, -1))
  np.testing.assert_array_equal(output.solution_value[others], 0)


@pytest.mark.parametrize('has_opening', [
    pytest.param(False, marks=pytest.mark.slow), True])
def test_what_opens_a_text_ends_no_step(has_opening):
  config, params = language_search.make_model()
  step = language_search.make_step(config, has_opening=has_opening)
  output = language_search.run(
      step, language_search.BEST_FIRST, params,
      *language_search.make_prompts(BATCH), jnp.arange(BATCH))
  tree = jax.device_get(output.tree)
  is_short = (  # a step that is a delimiter and nothing else
      tree.is_valid & (tree.embeddings.page.length == 1) & np.isin(
          tree.embeddings.tokens[..., 0], language_search.DELIMITERS))
  assert is_short[tree.depths > 1].any()
  assert is_short[tree.depths == 1].any() == (not has_opening)
