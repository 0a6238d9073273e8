# SPDX-License-Identifier: Apache-2.0
"""Steps of a language model: every node against a plain forward pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import reasoning
from meta_cot import search
from meta_cot.search import base
from tests import language_search

_EOS, _PAD = language_search.EOS, language_search.PAD
_DELIMITERS, _LENGTH = language_search.DELIMITERS, language_search.LENGTH
_BEAM, _BEST_FIRST = language_search.BEAM, language_search.BEST_FIRST
make_model, make_prompts = (
    language_search.make_model, language_search.make_prompts)
make_step, run = language_search.make_step, language_search.run


@pytest.mark.parametrize('variant, loop, strategy', [
    ('gemma', 'unroll', _BEAM),
    pytest.param('gemma', 'scan', _BEST_FIRST, marks=pytest.mark.slow),
    pytest.param('qwen', 'unroll', _BEST_FIRST, marks=pytest.mark.slow),
    ('qwen', 'scan', _BEAM)])
def test_every_node_equals_a_plain_forward_pass(variant, loop, strategy):
  config, params = make_model(variant, loop)
  output = language_search.searched(variant, loop, strategy)
  num_nodes = language_search.check_faithful(
      config, params, output, *make_prompts(3))
  assert num_nodes > 40 and int(output.tree.depths.max()) > 2


def test_steps_end_where_they_should():
  prompts_BxP, lengths_B = make_prompts(3)
  ends = {'delimiter': 0, 'eos': 0, 'length': 0}
  config, params = make_model()
  output = run(make_step(config, outcome=None), _BEAM, params, prompts_BxP,
               lengths_B, jnp.arange(3))
  tree = output.tree
  for (b, n), (_, own) in language_search.full_texts(
      output, prompts_BxP, lengths_B).items():
    if n == 0:
      continue
    assert 1 <= len(own) <= _LENGTH
    assert not set(own[:-1].tolist()) & {_EOS, *_DELIMITERS}
    assert tree.is_terminal[b, n] == (own[-1] == _EOS)
    kind = 'eos' if own[-1] == _EOS else (
        'delimiter' if own[-1] in _DELIMITERS else 'length')
    assert kind != 'length' or len(own) == _LENGTH
    ends[kind] += 1
    behind = np.asarray(tree.embeddings.tokens)[b, n, len(own):]
    assert (behind == _PAD).all()
    if kind == 'eos':
      assert tree.rewards[b, n] == tree.values[b, n]
  assert all(ends.values()), ends
  np.testing.assert_array_equal(
      tree.num_tokens,
      jnp.sum(tree.embeddings.page.length * tree.is_valid, axis=1))


def test_padding_of_prompts_does_not_count():
  config, params = make_model('gemma')
  prompts_BxP, lengths_B = make_prompts(3)
  is_text_BxP = jnp.arange(6)[None] < lengths_B[:, None]
  wide_BxP = jnp.pad(
      jnp.where(is_text_BxP, prompts_BxP, 9), ((0, 0), (0, 2)),
      constant_values=11)
  found = run(make_step(config), _BEAM, params, wide_BxP, lengths_B,
              jnp.arange(3))
  language_search.same_trees(
      found.tree, language_search.searched('gemma', strategy=_BEAM).tree)


def is_even(problem, tokens_M, length):
  is_text_M = jnp.arange(tokens_M.shape[0]) < length
  total = jnp.sum(jnp.where(is_text_M, tokens_M, 0)) + problem['offset']
  return (total % 2 == 0).astype(jnp.float32)


def by_length(problem, tokens_M, length):
  return problem['offset'] + length / (1.0 + tokens_M.shape[0])


def first_token(problem, tokens_M, length):
  del problem
  return jnp.stack([tokens_M[0], length])


def test_functions_of_texts():
  config, params = make_model()
  config = dataclasses.replace(config, value_head='none')
  prompts_BxP, lengths_B = make_prompts(3)
  step = make_step(
      config, outcome=is_even, value=by_length, state_key=first_token)
  strategy = functools.partial(_BEAM, merge_states=True)
  output = run(step, strategy, params, prompts_BxP, lengths_B, jnp.arange(3),
               {'offset': jnp.arange(3)})
  tree, num_goals = output.tree, 0
  np.testing.assert_array_equal(tree.values[:, 0], jnp.arange(3.0))
  for (b, n), (before, own) in language_search.full_texts(
      output, prompts_BxP, lengths_B).items():
    text = np.concatenate([before[int(lengths_B[b]):], own])
    if n == 0:
      continue
    np.testing.assert_allclose(
        tree.values[b, n], b + len(text) / (1 + 3 * _LENGTH), rtol=1e-6)
    np.testing.assert_array_equal(tree.state_keys[b, n], [text[0], len(text)])
    if tree.is_terminal[b, n]:
      assert tree.rewards[b, n] == ((text.sum() + b) % 2 == 0)
      num_goals += int(tree.rewards[b, n])
  assert 0 < num_goals < int(tree.is_terminal.sum())


def test_rows_without_a_leaf_have_no_children():
  config, params = make_model()
  prompts_BxP, lengths_B = make_prompts(2)

  @jax.jit
  def expand():
    given, root = reasoning.start(
        config, params, prompts_BxP, lengths_B, step_length=_LENGTH)
    path = base.Path(
        embeddings=jax.tree.map(lambda x: x[:, None], root.embedding),
        length=jnp.array([1, 0]), nodes=jnp.zeros((2, 1), jnp.int32),
        keys=jax.random.split(jax.random.key(0), 2))
    return make_step(config)(given, jax.random.key(1), path)

  expansion = expand()
  np.testing.assert_array_equal(
      expansion.is_valid, [[True] * 3, [False] * 3])
  assert (expansion.num_tokens[0] > 0).all()
  assert (expansion.num_tokens[1] == 0).all()


@pytest.mark.parametrize('loop', ['scan', 'unroll'])
def test_select_rows_takes_whole_prompts(loop):
  config, params = make_model(loop=loop)
  start = jax.jit(lambda tokens: reasoning.start(
      config, params, tokens, jnp.array([4, 5, 6]), step_length=_LENGTH,
      problems=tokens[:, 0])[0][1])
  prompts_BxP, _ = make_prompts(3)
  new, old = start(prompts_BxP), start(15 - prompts_BxP)
  is_new_B = jnp.array([True, False, True])
  expected = start(
      jnp.where(is_new_B[:, None], prompts_BxP, 15 - prompts_BxP))
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, atol=1e-6),
      reasoning.select_rows(is_new_B, new, old), expected)


@pytest.mark.parametrize('changes, message', [
    (dict(branching=0), 'branching: got 0'),
    (dict(step_length=0), 'step_length: got 0'),
    (dict(eos_ids=(3, 16)), 'eos_ids: got 16; must be a token id from 0 to 15'),
    (dict(pad_id=-1), 'pad_id: got -1'),
    (dict(delimiter_ids=(5, 99)), 'delimiter_ids: got 99')])
def test_bad_settings_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    make_step(make_model()[0], **changes)


def test_what_cannot_be_searched_is_refused():
  config, params = make_model()
  headless = dataclasses.replace(config, value_head='none')
  with pytest.raises(ValueError, match='the model has no value head'):
    make_step(headless)
  prompts_BxP, lengths_B = make_prompts(2)
  with pytest.raises(ValueError, match='step_length = 59 tokens after prompts'):
    reasoning.start(config, params, prompts_BxP, lengths_B, step_length=59)
  deep = functools.partial(search.best_first, num_expansions=2, max_depth=15)
  with pytest.raises(ValueError, match='14 steps of 4 and one of 4 tokens'):
    run(make_step(config), deep, params, prompts_BxP, lengths_B, jnp.arange(2))
