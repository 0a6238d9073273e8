# SPDX-License-Identifier: Apache-2.0
"""What guides a search, by name, with a policy that knows some arithmetic."""

import collections
import dataclasses
import functools

from flax.linen import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import sharding
from meta_cot import tasks
from meta_cot.model import transformer
from meta_cot.rollouts import judge as judge_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import host
from meta_cot.solvers import scoring
from meta_cot.solvers import searching
from meta_cot.solvers import valuing
from meta_cot.solvers import vocabulary
from meta_cot.tasks import countdown
from meta_cot.training import compilation
from tests import searching_test

TASK = tasks.make('countdown')
# Of the second one the policy finds no solution, but half of the way to one.
PROBLEMS = tuple(
    countdown.make_problem(numbers, target) for numbers, target in (
        ([5, 17, 1], 21), ([5, 17, 1], 13), ([17, 5, 1], 21)))
TEXT = 'S5-1=4,17+4=21'
SOURCES = ('likelihood', 'head', 'model', 'rollouts', 'oracle')


@functools.cache
def policy(seed=0):
  """The next token follows from the last one, as in TEXT; a random head."""
  tokenizer, size = searching_test.tokenizer(), 128
  config, _ = searching_test.model()
  config = dataclasses.replace(
      config, embed_dim=size, tie_embeddings=False, embed_scale=False)
  params = meta.unbox(transformer.init(config, jax.random.key(seed)))
  log_probs = np.full((size, size), -12.0)
  tokens = [*tokenizer.encode(f':{TEXT}'), tokenizer.eos_id]
  log_probs[tokens[:-1], tokens[1:]] = 0
  params['embedder'] = dict(
      embedding=jnp.eye(size), readout=jnp.asarray(
          log_probs / np.sqrt(size), jnp.float32))
  for name, kernel in (('attention', 'o_proj'), ('mlp', 'down_proj')):
    of = params['layers'][name]
    of[kernel] = jax.tree.map(jnp.zeros_like, of[kernel])
  return scoring.Judge(f'planted{seed}', config, params, tokenizer, 'compact')


def settings(value, sources=(), **changes):
  plain = searching_test.SETTINGS
  return dataclasses.replace(plain, **dict(
      value=value, branching=16, num_expansions=5, step_length=8,
      tree=dataclasses.replace(plain.tree, early_stop='never'),
      valuing=dataclasses.replace(
          plain.valuing, model='judge', num_rollouts=6, rollout_length=14,
          sources=sources, weights=(0.5,) * len(sources), mixing='mean'),
  ) | changes)


def searcher(value, judge=None, **changes):
  mesh = sharding.make_mesh(
      sharding.MeshConfig(-1, 1, 1), jax.devices()[:1])
  return searching.Searcher(
      'best_first', settings(value, **changes), TASK, mesh, judge)


def _nodes(outcomes):
  return [
      node for record in outcomes.records[:, 0] for node in record.nodes[1:]]


def test_an_oracle_says_which_states_lead_to_a_solution():
  outcomes = searcher('oracle', outcome='value')(
      policy(), PROBLEMS, jax.random.key(0))
  seen = collections.Counter()
  for record in outcomes.records[:, 0]:
    assert record.nodes[0].value == 1
    for node in record.nodes[1:]:
      want = node.is_correct if node.is_terminal else (
          node.state != '' and TASK.oracle(record.problem, node.state))
      assert node.value == float(want)
      seen[node.is_terminal, want] += 1
  assert len(seen) == 4 and seen[False, True] > 1


def test_the_host_completes_as_the_graph_does(monkeypatch):
  """With other slots, too; and nothing is compiled twice."""
  run = lambda made: made(policy(), PROBLEMS, jax.random.key(0))
  made = searcher('rollouts')
  want = run(made)
  num_programs = compilation.num_programs()
  again = run(made)
  assert compilation.num_programs() == num_programs
  monkeypatch.setattr(vocabulary, 'is_in_graph', lambda *_: False)
  on_host = run(searcher('rollouts', num_slots=3, chunk_steps=5))
  values = {node.value for node in _nodes(want) if not node.is_terminal}
  assert 0 in values and 0 < max(values) < 1
  for other in (again, on_host):
    np.testing.assert_array_equal(other.num_tokens, want.num_tokens)
    assert _nodes(other) == _nodes(want)


def test_a_mixture_of_all():
  run = lambda made: made(policy(), PROBLEMS, jax.random.key(0))
  made = searcher('mixture', policy(1), sources=SOURCES, outcome='value')
  want = run(made)
  num_programs = compilation.num_programs()
  assert _nodes(run(made)) == _nodes(want)
  assert compilation.num_programs() == num_programs
  alone = made(policy(), PROBLEMS[1:2], jax.random.key(0), first=1)
  assert len(alone.records[0, 0].nodes) > 10
  for x, y in zip(alone.records[0, 0].nodes, want.records[1, 0].nodes,
                  strict=True):
    assert (x.tokens, x.order) == (y.tokens, y.order)
    np.testing.assert_allclose(x.value, y.value, atol=1e-6)


def test_states_are_asked_about_once():
  class Counted:
    states, in_graph = TASK.states, None
    asked = collections.Counter()

    def oracle(self, problem, state):
      self.asked[problem.id, state] += 1
      return TASK.oracle(problem, state)

  task, words = Counted(), vocabulary.of(
      policy().tokenizer, 128, 'compact')
  made = host.Host(
      judge_lib.Judge(task, policy().tokenizer, 'compact'), words)
  made.ask_about({
      i: countdown.make_problem([5, 17, 1], target)
      for i, target in enumerate((23, 13))})
  texts = ('S5+1=6,', 'S5+1=6', 'S1+5=6,', 'S5+1=7,', 'S5+1=', '5+1=6,', 'S',
           '', 'S5+1=6,17+6=23,')
  rows = np.zeros((len(texts), 700), np.int32)
  tokens = [policy().tokenizer.encode(text) for text in texts]
  for row, text in zip(rows, tokens):
    row[:len(text)] = text
  ask = jax.jit(jax.vmap(jax.vmap(made.oracle, (None, 0, 0))))
  found = ask(dict(index=jnp.array([0, 1, 0])), np.stack([rows] * 3),
              np.stack([list(map(len, tokens))] * 3))
  of_states = [1, 1, 1, 0, 0, 0, 0, 1, 1]
  assert found[0].tolist() == found[2].tolist() == of_states
  assert found[1].tolist() == [0] * 7 + [1, 0]
  assert set(task.asked.values()) == {1} and len(task.asked) == 6


@pytest.mark.parametrize('changes, words', [
    (dict(value='mixture'), r'search.valuing.weights: got \(\) for sources'),
    (dict(value='model', valuing=dict(model=None)),
     'search.valuing.model: got None'),
    (dict(value='oracle', step='event'),
     "search.value: got 'oracle'; must be without an oracle"),
    (dict(value='rollouts', valuing=dict(rollout_length=30)),
     'search.valuing.rollout_length: got 30; behind 24 tokens'),
    (dict(value='mixture', valuing=dict(sources=('head',), weights=(1.0, 2.0))),
     r'got \(1.0, 2.0\) for sources')])
def test_what_cannot_guide_is_refused(changes, words):
  group = dataclasses.replace(
      settings('head').valuing, **changes.get('valuing', {}))
  made = settings(**dict(max_depth=2) | changes | dict(valuing=group))
  mesh = sharding.make_mesh(
      sharding.MeshConfig(-1, 1, 1), jax.devices()[:1])
  with pytest.raises(config_lib.ConfigError, match=words) as error:
    searching.Searcher('beam', made, TASK, mesh).prepare(policy(), PROBLEMS)
  assert '\n' not in str(error.value)


def test_a_judge_that_cannot_judge_is_refused():
  check = functools.partial(
      valuing.check_judge, settings('model').valuing)
  able = valuing.Judge(policy().model)
  headless = valuing.Judge(
      dataclasses.replace(policy().model, value_head='none'), 1, 2)
  check('model', 'compact', able, 'compact')
  check('verdicts', 'compact', headless, 'compact')
  for value, judge, style, words in (
      ('model', headless, 'compact', 'a model without a value head'),
      ('verdicts', able, 'compact', 'a policy that says no verdicts'),
      ('model', able, 'prose', "of style 'prose'; must be of 'compact'")):
    with pytest.raises(config_lib.ConfigError, match=words):
      check(value, 'compact', judge, style)
  with pytest.raises(config_lib.ConfigError, match='must have that of the'):
    valuing.check_tokens(settings('model').valuing, 'a' * 64, 'b' * 64)
