# SPDX-License-Identifier: Apache-2.0
"""Steps drawn without replacement: probabilities by enumeration, trees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import decode
from meta_cot import search
from meta_cot.model import transformer
from meta_cot.reasoning import siblings
from tests import language_search

NUM_LEAVES, A = 2048, 3
ENDS = (language_search.EOS, *language_search.DELIMITERS)
ONE_LEVEL = functools.partial(search.beam, beam_width=1, max_depth=1)
make_step = functools.partial(
    language_search.make_step, siblings='without_replacement')


def enumerated(config, params, prompt_P):
  """{tokens: probability} of all steps of at most two tokens."""
  firsts_V = np.arange(language_search.VOCAB)
  rows_VxL = np.concatenate(
      [np.tile(prompt_P, (len(firsts_V), 1)), firsts_V[:, None]], axis=1)
  logits_VxLxV = np.asarray(transformer.forward(
      config, params, jnp.asarray(rows_VxL, jnp.int32)).logits, np.float64)
  weights = np.exp(logits_VxLxV[:, -2:] / language_search.TEMPERATURE)
  first_VxV, second_VxV = np.moveaxis(
      weights / weights.sum(axis=-1, keepdims=True), 1, 0)
  found = {}
  for v in firsts_V.tolist():
    if v in ENDS:
      found[v,] = first_VxV[0, v]
    else:
      found |= {(v, w): first_VxV[0, v] * p
                for w, p in enumerate(second_VxV[v])}
  return found


def chances(p):
  """[3, n]: the probability that a step is child 1, 2, 3; by enumeration."""
  first_two = p[:, None] * p / (1 - p[:, None])
  np.fill_diagonal(first_two, 0)
  left = 1 - p[:, None] - p
  np.fill_diagonal(left, 1)
  weights = first_two / left
  third = p * (weights.sum() - weights.sum(axis=0) - weights.sum(axis=1))
  return np.stack([p, first_two.sum(axis=0), third])


@functools.cache
def one_level():
  """Children of the same leaf under many keys, and the steps there are."""
  config, params = language_search.make_model()
  prompts_BxP, _ = language_search.make_prompts(1)
  repeat = lambda x: jnp.repeat(x, NUM_LEAVES, axis=0)
  output = language_search.run(
      make_step(config, step_length=2), ONE_LEVEL, params,
      repeat(prompts_BxP), jnp.full(NUM_LEAVES, language_search.NUM_PROMPT),
      jnp.arange(NUM_LEAVES))
  tree = jax.device_get(output.tree)
  lengths = tree.embeddings.page.length[:, 1:]
  steps = [
      [tuple(tokens[:n]) for tokens, n in zip(*row)]
      for row in zip(tree.embeddings.tokens[:, 1:].tolist(), lengths)]
  return tree, steps, enumerated(config, params, np.asarray(prompts_BxP[0]))


def test_no_step_is_there_twice_and_each_knows_its_probability():
  tree, steps, probs = one_level()
  assert abs(sum(probs.values()) - 1) < 1e-6
  assert all(len(set(row)) == A for row in steps)
  assert tree.is_valid[:, 1:].all()
  np.testing.assert_allclose(
      tree.log_probs[:, 1:], [[np.log(probs[s]) for s in row] for row in steps],
      atol=1e-4)
  scores = tree.embeddings.score[:, 1:]
  assert (np.diff(scores, axis=1) < 0).all()


def test_more_children_are_different_for_as_many_tokens():
  _, steps, probs = one_level()
  p, lengths = np.array([*probs.values()]), np.array([*map(len, probs)])
  independent = np.sum(1 - (1 - p)**A) / (A * np.sum(p * lengths))
  here = NUM_LEAVES * A / sum(len(step) for row in steps for step in row)
  assert here > 1.01 * independent  # rare steps are longer


@pytest.mark.parametrize('place', range(A))
def test_inclusion_equals_enumeration(place):
  """Chi-square of every place in the order, over steps that are not rare."""
  _, steps, probs = one_level()
  index = {step: i for i, step in enumerate(probs)}
  expected = NUM_LEAVES * chances(np.array([*probs.values()]))[place]
  assert abs(expected.sum() - NUM_LEAVES) < 1e-6
  seen = np.bincount(
      [index[row[place]] for row in steps], minlength=len(index))
  is_rare = expected < 5
  together = lambda x: np.append(x[~is_rare], x[is_rare].sum())
  seen, expected = together(seen), together(expected)
  assert len(seen) > 10
  statistic = np.sum((seen - expected)**2 / np.maximum(expected, 1))
  freedom = len(seen) - 1
  assert statistic < freedom + 3 * np.sqrt(2 * freedom)


def test_given_the_next_score_inclusion_has_a_closed_form():
  """Weighted by its inverse, the first two stand for all steps."""
  tree, _, _ = one_level()
  probs = np.exp(np.float64(tree.log_probs[:, 1:A]))
  included = 1 - np.exp(-probs * np.exp(-np.float64(
      tree.embeddings.score[:, A:])))
  totals = np.sum(probs / included, axis=1)  # each an estimate of 1
  error = totals.std() / np.sqrt(NUM_LEAVES)
  assert abs(totals.mean() - 1) < 4 * error < 0.2


def test_every_node_equals_a_plain_forward_pass():
  """Of trees in which some texts have a beginning in common."""
  config, params = language_search.make_model(loop='scan')
  prompts = language_search.make_prompts(3)
  run = lambda some: language_search.run(
      make_step(config), language_search.BEAM, params,
      *(x[some:] for x in prompts), jnp.arange(some, 3))
  output = run(0)
  num_nodes = language_search.check_faithful(config, params, output, *prompts)
  tree = jax.device_get(output.tree)
  assert num_nodes == 3 + tree.is_valid[:, 1:].sum() > 40
  assert tree.depths.max() > 1
  families = {}
  for b, i in zip(*np.nonzero(tree.is_valid[:, 1:])):
    length = tree.embeddings.page.length[b, i + 1]
    families.setdefault((b, tree.parents[b, i + 1]), []).append(
        tuple(tree.embeddings.tokens[b, i + 1, :length]))
  assert all(len(set(family)) == len(family) for family in families.values())
  assert any(
      len({step[:1] for step in family}) < len(family)
      for family in families.values())
  # A problem alone has the same tree.
  language_search.same_trees(
      run(2).tree, jax.tree.map(lambda x: x[2:], output.tree))


def test_a_leaf_with_fewer_steps_than_children():
  config, params = language_search.make_model()
  tree = language_search.run(
      make_step(config, step_length=1, sampling=decode.Sampling(0.8, top_k=2)),
      ONE_LEVEL, params, *language_search.make_prompts(3), jnp.arange(3)).tree
  np.testing.assert_array_equal(
      tree.is_valid[:, 1:], [[True, True, False]] * 3)
  np.testing.assert_array_equal(tree.num_tokens, 2)
  np.testing.assert_allclose(
      np.exp(tree.log_probs[:, 1:3]).sum(axis=1), 1, atol=1e-5)


def test_the_largest_continuation_has_the_score_of_its_beginning():
  rng = np.random.default_rng(0)
  log_probs_CxV = np.log(rng.dirichlet(np.ones(6), 50)).astype(np.float32)
  log_probs_CxV[:, 0] = -np.inf
  scores_C = rng.normal(size=50).astype(np.float32)
  found = np.asarray(siblings.perturbed(
      log_probs_CxV, scores_C, jax.random.split(jax.random.key(0), 50)))
  assert np.isneginf(found[:, 0]).all() and not np.isnan(found).any()
  np.testing.assert_array_equal(found.max(axis=1), scores_C)
  assert ((found == scores_C[:, None]).sum(axis=1) == 1).all()


def test_settings_without_a_distribution_are_refused():
  config, _ = language_search.make_model()
  with pytest.raises(ValueError, match='with temperature 0; must be') as error:
    make_step(config, sampling=decode.Sampling(0.0))
  assert '\n' not in str(error.value)
  with pytest.raises(ValueError, match='one of independent, without_repl'):
    make_step(config, siblings='all')
