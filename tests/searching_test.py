# SPDX-License-Identifier: Apache-2.0
"""Searches of Countdown problems that cannot succeed, or cannot be."""

import collections
import dataclasses
import functools

from flax.linen import meta
import jax
import numpy as np
import pytest

from configs import models
from data_pipelines.tokenizers import sentencepiece
from meta_cot import sharding
from meta_cot import tasks
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.rollouts import judge as judge_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import growing
from meta_cot.solvers import searching
from meta_cot.solvers import strategies
from meta_cot.solvers import trees
from meta_cot.solvers import valuing
from meta_cot.tasks import countdown

# The numbers of the second one make no 60.
PROBLEMS = (countdown.make_problem([5, 17, 1], 23),
            countdown.make_problem([1, 1, 1], 60))
LONG = countdown.make_problem([5, 17, 1] * 2, 23)
SETTINGS = strategies.Settings(
    step='solution', num_slots=2, chunk_steps=2, value='likelihood',
    outcome='verifier', branching=3, max_depth=None, step_length=4,
    max_tokens=None, beam_width=2,
    num_expansions=4, num_simulations=6, rule='uct', exploration=1.0,
    temperature=1.0, top_k=None, top_p=None, siblings='independent',
    tree=growing.Tree(
        step_check='none', merging='steps', goal_test='push', backup='leaf',
        early_stop=None, stop_value=0.5, widening=None, widening_scale=1.0,
        resample_below=1.0, compaction=False),
    valuing=valuing.Settings(
        model=None, num_rollouts=3, rollout_length=5, sources=(), weights=(),
        mixing='product'))


@functools.cache
def tokenizer():
  text = '5,17,1>23:5-1=4,17;+21@0;S5+1=6,17+6=23*/'
  return sentencepiece.train([text], 128, 60)


@functools.cache
def model():
  """A config and parameters that were never trained."""
  config = config_lib.parse(model_config.ModelConfig, models.get('tiny') | dict(
      vocab_size=128, num_layers=1, embed_dim=16, num_heads=2, num_kv_heads=2,
      head_dim=8, mlp_dim=16, max_length=48))
  return config, meta.unbox(transformer.init(config, jax.random.key(0)))


def policy(style='compact'):
  return base.Policy('random', *model(), tokenizer(), style)


@functools.cache
def searcher(name='best_first', **changes):
  mesh = sharding.make_mesh(
      sharding.MeshConfig(-1, 1, 1), jax.devices()[:1])
  return searching.Searcher(
      name, dataclasses.replace(SETTINGS, **changes), tasks.make('countdown'),
      mesh)


def search(name, problems=PROBLEMS, **changes):
  """Finished searches, what they found, and their records."""
  finished, _, _ = searcher(name, **changes).run(
      policy(), problems, jax.random.key(0))
  judge = judge_lib.Judge(tasks.make('countdown'), tokenizer(), 'compact')
  return [
      (f, f.result.output, trees.read(
          judge, 'solution', problem, f.result.output.tree, f.result.tokens,
          f.result.lengths, int(f.result.output.solution_index), strategy=name,
          arguments={}, seed=0, model='')[0])
      for problem, f in zip(problems, finished, strict=True)]


@pytest.mark.parametrize('name', [
    pytest.param('best_first', marks=pytest.mark.slow), 'mcts', 'particles'])
def test_a_problem_without_solution_ends_without_one(name):
  problems = PROBLEMS[::-1] * 2
  found = search(name, problems)
  assert len(found) == len(problems)
  for problem, (finished, output, record) in zip(problems, found):
    assert output.is_done and finished.num_steps >= 1
    assert output.tree.num_expansions >= 1
    if problem is PROBLEMS[1]:
      assert not any(node.is_correct for node in record.nodes)
      assert record.solution == () and output.solution_value == 0
    if output.solution_index == -1:
      assert not (output.tree.is_terminal & output.tree.is_valid).any()
    assert trees.told(record, 'compact')[0]
  outcomes = searcher(name)(policy(), problems, jax.random.key(0))
  assert not outcomes.is_correct[::2].any()
  assert not outcomes.details['is_found'][::2].any()
  for (_, output, wanted), record, tokens, value in zip(
      found, outcomes.records[:, 0], outcomes.num_tokens[:, 0],
      outcomes.values[:, 0], strict=True):
    assert record.nodes == wanted.nodes
    assert (tokens, value) == (output.tree.num_tokens, output.solution_value)


def test_a_budget_smaller_than_one_expansion_pays_for_one():
  for finished, output, _ in search('beam', max_tokens=1):
    assert output.is_done and finished.num_steps == 1
    assert output.tree.num_expansions == 1
    assert output.solution_index == -1 or output.tree.is_terminal[
        output.solution_index]


@pytest.mark.parametrize('field', [
    'branching', 'max_depth', 'step_length', 'max_tokens', 'beam_width',
    'num_expansions', 'num_simulations', 'num_slots', 'chunk_steps'])
@pytest.mark.parametrize('value', [0, -1])
def test_impossible_budgets_are_named(field, value):
  settings = dataclasses.asdict(SETTINGS) | {field: value}
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.parse(strategies.Settings, settings, 'config.search')
  message = str(error.value)
  assert message.startswith(f'config.search.{field}: got {value}')
  assert 'at least 1' in message and '\n' not in message


@pytest.mark.parametrize('changes, problems, message', [
    (dict(step_length=21), PROBLEMS,
     'search.step_length: got 21; 2 steps after prompts of 8 tokens '
     'must be at most config.model.max_length, 48.'),
    (dict(max_depth=30), PROBLEMS, '30 steps after prompts of 8 tokens'),
    (dict(step_length=8), [LONG] * 3, '5 steps after prompts of 16 tokens'),
    (dict(step_length=1), [countdown.make_problem([1] * 30, 9)],
     'search.step_length: got 1; 29 steps'),
    ({}, [], 'problems: got none; must be at least one'),
    ({}, [*PROBLEMS, LONG],
     'problems: countdown-3-5-17-1-23 has inputs .*; must be equal'),
    (dict(branching=0), PROBLEMS, 'branching: got 0; must be at least 1'),
    (dict(max_depth=0), PROBLEMS, 'max_depth: got 0; must be at least 1'),
    (dict(num_slots=0), PROBLEMS, 'num_slots: got 0; must be at least 1'),
    (dict(chunk_steps=0), PROBLEMS, 'chunk_steps: got 0; must be at least 1'),
    (dict(num_expansions=0), PROBLEMS, 'best_first: num_expansions: got 0'),
    (dict(max_tokens=-3), PROBLEMS, 'max_tokens: got -3; must be at least 1')])
def test_what_cannot_be_searched_is_refused(changes, problems, message):
  """By the searcher itself, whose settings nobody has parsed."""
  with pytest.raises(ValueError, match=message) as error:
    searcher(**changes)(policy(), problems, jax.random.key(0))
  assert '\n' not in str(error.value)


def test_settings_that_do_not_go_together_are_found_before_a_search():
  with pytest.raises(config_lib.ConfigError) as error:
    searcher('dvts', beam_width=4).prepare(policy(), PROBLEMS)
  assert str(error.value) == (
      'search: dvts: num_groups: got 4; must be at most branching, 3: '
      'every group begins with a child of the root.')
  for name in strategies.STRATEGIES:
    searcher(name).prepare(policy(), PROBLEMS)


def test_several_runs_of_one_searcher_give_the_same_bits():
  made = searcher()
  first, again = (
      made.run(policy(), PROBLEMS, jax.random.key(5))[0] for _ in range(2))
  for x, y in zip(first, again, strict=True):
    jax.tree.map(np.testing.assert_array_equal, x.result, y.result)


def test_a_problem_is_searched_the_same_at_its_place():
  problems = [*PROBLEMS, countdown.make_problem([2, 17, 1], 23)]
  whole = searcher()(policy(), problems, jax.random.key(2))
  alone = searcher()(policy(), problems[2:], jax.random.key(2), first=2)
  assert alone.records[0, 0].nodes == whole.records[2, 0].nodes
  other = searcher()(policy(), problems[2:], jax.random.key(2))
  assert other.records[0, 0].nodes != whole.records[2, 0].nodes


def test_behind_a_wrong_attempt_another_one_follows():
  made = searcher(
      'best_first', step='episode', max_depth=2, step_length=8, branching=16,
      num_expansions=16)
  outcomes = made(policy(), PROBLEMS, jax.random.key(1))
  (eos_id,) = tokenizer().eos_ids
  ends = collections.Counter()
  for record in outcomes.records[:, 0]:
    depths = [0]
    for node in record.nodes[1:]:
      depths.append(depths[node.parent] + 1)
      has_ended = node.tokens[-1] == eos_id
      assert eos_id not in node.tokens[:-1]
      assert node.is_terminal == (
          has_ended and (node.is_correct or depths[-1] == 2))
      ends[depths[-1], has_ended] += 1
  assert ends[1, True] and ends[2, True]


@pytest.mark.parametrize('style', ['compact', 'stream_of_search'])
def test_events_of_traces_are_searched(style):
  """With the verdict in the graph, and on the host."""
  made = searcher(
      'best_first', step='event', max_depth=3, step_length=6, branching=8,
      num_expansions=8, value='likelihood')
  outcomes = made(policy(style), PROBLEMS, jax.random.key(1))
  nodes = [n for record in outcomes.records[:, 0] for n in record.nodes]
  ends = [n for n in nodes if n.is_terminal]
  assert ends and len(nodes) > 20 and not any(n.state for n in nodes)
  assert all(n.value == float(n.is_correct) for n in ends)
  with pytest.raises(
      config_lib.ConfigError, match='search.max_depth: got None'):
    searcher(step='event').prepare(policy(style), PROBLEMS)
