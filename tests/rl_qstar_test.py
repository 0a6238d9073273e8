# SPDX-License-Identifier: Apache-2.0
"""q-STaR: its gradient against enumeration, its rows, its sources of S."""

import dataclasses
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import sharding
from meta_cot.model import transformer
from meta_cot.rl import credit as credit_lib
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import qstar
from meta_cot.rollouts import episodes
from meta_cot.settings import config as config_lib
from meta_cot.tasks import countdown
from meta_cot.traces.arithmetic import teacher
from tests import small_rl

# A policy that is a table draws Z of 0 and 1 up to MARK, or two tokens without
# it. S is 1, 0; with the mark in front where Z has none.
_MARK, _PROMPT, _PAD = 2, 3, 4
_S = (1, 0)
_DRAWN = ((2,), (0, 2), (1, 2), (0, 0), (0, 1), (1, 0), (1, 1))


def _text(drawn):
  """Z and S, each a tuple."""
  return drawn, _S if drawn[-1] == _MARK else (_MARK, *_S)


_CONTEXTS = {
    context: i for i, context in enumerate(sorted({
        (*z, *s)[:k] for z, s in map(_text, _DRAWN)
        for k in range(len(z) + len(s))}))}


def _settings(**changes):
  return small_rl.settings(**dict(
      objectives=('qstar',), solutions='traces', kl_in='none') | changes)


def _theta(seed=0):
  noise = np.random.default_rng(seed).normal(size=(len(_CONTEXTS), 3))
  return jnp.asarray(noise, jnp.float32)


def _log_probs(row, text):
  """In NumPy: of every token of a text."""
  return [
      row[_CONTEXTS[text[:k]]][token] - np.log(
          np.exp(row[_CONTEXTS[text[:k]]]).sum())
      for k, token in enumerate(text)]


def _worth(theta):
  """Exactly E[log pi(S | Z)], by enumeration."""
  total = 0.0
  for z, s in map(_text, _DRAWN):
    found = _log_probs(theta, (*z, *s))
    total += np.exp(sum(found[:len(z)])) * sum(found[len(z):])
  return total


def _differences(theta):
  """The gradient of `_worth`, by differences."""
  theta = np.asarray(theta, np.float64)
  gradient = np.zeros_like(theta)
  for place in np.ndindex(*theta.shape):
    step = np.zeros_like(theta)
    step[place] = 1e-5
    gradient[place] = (_worth(theta + step) - _worth(theta - step)) / 2e-5
  return gradient


def _solved():
  """All pairs of what may be drawn, one question each."""
  pairs = [z for pair in itertools.product(_DRAWN, _DRAWN) for z in pair]
  num, length = len(pairs), 2
  tokens = np.full((num, length), _PAD, np.int32)
  solutions, lengths = np.full((num, 3), _PAD, np.int32), []
  for n, (z, s) in enumerate(map(_text, pairs)):
    tokens[n, :len(z)] = z
    solutions[n, :len(s)] = s
    lengths.append(len(s))
  kept = np.array([len(z) for z in pairs], np.int32)
  is_drawn = np.arange(length)[None] < kept[:, None]
  rollouts = episodes.Rollouts(
      tokens=tokens, log_probs=np.zeros(tokens.shape, np.float32),
      is_sampled=is_drawn, episode=np.where(is_drawn, 0, -1).astype(np.int32),
      lengths=kept, starts=np.zeros((num, 1), np.int32), ends=kept[:, None],
      is_finished=np.zeros((num, 1), bool),
      has_given_up=np.zeros((num, 1), bool), num_steps=2, num_live=2)
  return pairs, qstar.Solved(
      rollouts, kept, solutions, np.array(lengths, np.int32))


def _rows():
  pairs, solved = _solved()
  num_questions = len(pairs) // 2
  rows = qstar.assemble(
      jnp.full((num_questions, 1), _PROMPT), jnp.ones(num_questions, int),
      jax.tree.map(jnp.asarray, solved), pad_id=_PAD)
  return pairs, jax.device_get(rows)


def test_rows_are_what_was_drawn_and_the_solution():
  pairs, rows = _rows()
  for n, (z, s) in enumerate(map(_text, pairs)):
    text = [*z, *s]
    blank = [_PAD] * (5 - len(text))
    assert rows.targets[n].tolist() == text + blank
    assert rows.tokens[n].tolist() == ([_PROMPT] + text + blank)[:5]
    assert rows.is_sampled[n].tolist() == [k < len(z) for k in range(5)]
    assert rows.is_given[n].tolist() == [
        len(z) <= k < len(text) for k in range(5)]
    assert (rows.episode[n] == np.where(rows.is_sampled[n], 0, -1)).all()


def _expected(theta, advantage):
  """Minus the gradient of the loss of a pair that the policy draws."""
  pairs, rows = _rows()
  objective = _settings(
      advantage=advantage, num_samples=2, clip_low=1.0,
      clip_high=1e9).objective('qstar')
  context = np.zeros(rows.targets.shape, np.int32)
  for n, (z, s) in enumerate(map(_text, pairs)):
    for k in range(len(z) + len(s)):
      context[n, k] = _CONTEXTS[(*z, *s)[:k]]

  def log_probs(theta):
    found = jnp.take_along_axis(
        jax.nn.log_softmax(theta)[context],
        np.minimum(rows.targets, _MARK)[..., None], axis=2)[..., 0]
    return jnp.where(rows.is_sampled | rows.is_given, found, 0.0)

  num = len(pairs)
  nothing = np.zeros((num, 1), np.float32)
  before = jax.lax.stop_gradient(log_probs(theta))
  given = objective.credit(credit_lib.Evidence(
      rows=rows, progress=0.0, kl_coefficient=0.0, log_probs=before,
      num_samples=2, verdicts=credit_lib.Verdicts(
          rewards=nothing, is_taken=nothing > 0, is_judged=nothing[:, 0] > 0,
          tokens_before=nothing.astype(int), discounts=nothing[:, 0])))
  probs = np.exp(np.where(rows.is_sampled, before, 0).sum(axis=1))
  weights = np.repeat(probs[::2] * probs[1::2] / 2, 2)
  np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
  batch = objective_lib.Batch(
      rows=rows.replace(behaviour=before), advantages=given.advantages,
      is_trained=rows.is_sampled | rows.is_given, weights=None, reference=None,
      targets=None, old_values=None)

  def loss(theta):
    found = log_probs(theta)
    losses, _ = objective.loss(
        types.SimpleNamespace(sampled=found, plain=found), batch,
        jnp.float32(0))
    return -jnp.sum(weights * jnp.sum(losses, axis=1))

  return jax.grad(loss)(theta), given


@pytest.mark.parametrize('advantage', ['rloo', 'step_rloo'])
def test_the_gradient_against_enumeration(advantage):
  theta = _theta()
  got, given = _expected(theta, advantage)
  want = _differences(theta)
  assert np.abs(want).max() > 0.1
  np.testing.assert_allclose(got, want, atol=1e-5)
  # The reward is the log-likelihood of the solution, and nothing is flat.
  z, s = _text(_DRAWN[0])
  np.testing.assert_allclose(
      given.rewards[0], sum(_log_probs(np.asarray(theta), (*z, *s))[len(z):]),
      rtol=1e-5)
  assert not given.is_flat.any()


def test_a_baseline_that_is_not_left_out_is_another_gradient():
  """The law above can fail: the mean of two takes half of the first term."""
  got, _ = _expected(_theta(), 'grpo_no_std')
  assert np.abs(got - _differences(_theta())).max() > 0.01


@functools.cache
def _solutions(style='compact_digits', length=32):
  return qstar.read(
      [teacher.search(p, teacher.COMPACT, 0) for p in small_rl.PROBLEMS],
      small_rl.PROBLEMS, small_rl.tokenizer(), style, length, 'records',
      sharding.make_mesh(sharding.MeshConfig(1, 1, 1), jax.devices()[:1]))


@pytest.mark.parametrize('text, kept, has_mark', [
    ('5-1=4;', 6, False), ('5-1=4;S5+1', 7, True), ('S2+3', 1, True),
    ('S2+3S', 5, True), ('', 0, False)])
def test_z_ends_with_its_mark(text, kept, has_mark):
  tokens = small_rl.tokenizer().encode(text)
  assert _solutions().thought(tokens) == (kept, has_mark)


def test_a_solution_has_its_mark_once():
  tokenizer = small_rl.tokenizer()
  whole, behind = _solutions().tokens[small_rl.PROBLEMS[0].id]
  assert tokenizer.decode(whole) == 'S3+2=5'
  assert tokenizer.decode(behind) == '3+2=5'
  assert whole[-1] == behind[-1] == tokenizer.eos_id


def test_without_a_mark_all_but_the_last_attempt_is_z():
  bare = dataclasses.replace(_solutions(), style='free_text')
  assert bare.thought(small_rl.tokenizer().encode('S2+3')) == (0, False)


@pytest.mark.parametrize('change, words', [
    (dict(length=3), "records: the solution of problem .* has 7 tokens; raise"),
    (dict(problems=[countdown.make_problem([2, 7], 9)]),
     'records: no solution of problem .*, one of 1 of 1')])
def test_what_the_data_lack_is_one_line(change, words):
  arguments = dict(length=32, problems=small_rl.PROBLEMS) | change
  with pytest.raises(config_lib.UserError, match=words) as error:
    qstar.read(
        [teacher.search(p, teacher.COMPACT, 0) for p in small_rl.PROBLEMS],
        arguments['problems'], small_rl.tokenizer(), 'compact_digits',
        arguments['length'], 'records', None)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('changes, words', [
    (dict(solutions=None), 'questions.solutions: got None'),
    (dict(advantage='gae'), "advantage: got 'gae' with objective 'qstar'"),
    (dict(discounts=(0.9,)), 'credit.discounts: got .0.9'),
    (dict(exploration='beam'), "episodes.exploration: got 'beam'"),
    (dict(max_tokens=9), 'episodes.max_tokens: got 9'),
    (dict(window=1), 'episodes.window: got 1')])
def test_settings_that_do_not_go_together(changes, words):
  with pytest.raises(config_lib.ConfigError, match=words):
    _settings(**changes)


@functools.cache
def _run(axes=(1, 1, 1), **changes):
  run = small_rl.Run('qstar', axes, **dict(
      objectives=('qstar',), solutions='traces', num_epochs=2, rest=3)
      | changes)
  run.last = run.memory()
  run.after, run.rows = run.iterate(2, memory=run.last)
  return run


def _by_hand(run, params, batch):
  """Log-probs of the targets, by a model that reads rows whole."""
  logits = transformer.forward(
      run.model, params, jnp.asarray(batch.rows.tokens)).logits
  return jnp.take_along_axis(
      jax.nn.log_softmax(logits), batch.rows.targets[..., None], -1)[..., 0]


def test_rows_of_real_rollouts():
  """What was drawn up to the mark, then the solution and its end."""
  run, tokenizer = _run(), small_rl.tokenizer()
  batch, call = jax.device_get((run.batches[0], run.calls[0]))
  rollouts = call[4].rollouts
  number = {True: 0, False: 0}
  for n, row in enumerate(batch.rows.targets):
    given = row[batch.rows.is_given[n]].tolist()
    start, end = rollouts.starts[n, -1], rollouts.ends[n, -1]
    drawn = rollouts.tokens[n, start:end].tolist()
    has_mark = 'S' in tokenizer.decode(drawn)
    number[has_mark] += 1
    solution = tokenizer.decode(given)
    assert given[-1] == tokenizer.eos_id and '=' in solution
    assert solution.startswith('S') != has_mark
    mine = row[batch.rows.is_sampled[n]].tolist()
    last = drawn[:drawn.index(tokenizer.encode('S')[0]) + 1] if (
        has_mark and tokenizer.decode(drawn).count('S') == 1) else mine[-len(
            drawn):]
    assert has_mark or last == drawn
    assert mine[-len(last):] == last
    assert batch.rows.episode[n].max() == 2
  assert min(number.values()) > 0
  assert (batch.is_trained == (
      batch.rows.is_sampled | batch.rows.is_given)).all()
  assert (batch.weights[batch.is_trained] > 0).all()


def test_an_iteration_rewards_likelihood_and_learns_it():
  run = _run()
  batch = jax.device_get(run.batches[0])
  found = _by_hand(run, run.setup.start, batch)
  reward_N = np.where(batch.rows.is_given, found, 0).sum(axis=1)
  np.testing.assert_allclose(batch.rewards, reward_N, atol=1e-4)
  np.testing.assert_allclose(run.rows[0]['reward'], reward_N.mean(), atol=1e-4)
  groups = reward_N.reshape(4, 4)
  want = (groups - groups.mean(axis=1, keepdims=True)) * 4 / 3
  np.testing.assert_allclose(
      batch.advantages, np.where(
          batch.rows.is_sampled, want.reshape(-1)[:, None], 0), atol=1e-4)
  assert run.rows[0]['groups_without_gradient'] == 0
  assert run.rows[0]['gap_max'] < 1e-4  # of what was drawn
  assert np.isfinite([*run.rows[1].values()]).all()
  after = _by_hand(run, run.after.params, batch)
  assert np.where(batch.rows.is_given, after, 0).sum(axis=1).mean() > (
      reward_N.mean() + 0.5)


def test_no_verdict_changes_a_bit():
  run = _run()
  *before, verdicts, progress, beta, values = run.calls[0]
  assert np.asarray(verdicts.is_judged).all()
  other = verdicts.replace(rewards=1 - verdicts.rewards)
  for x, y in zip(*(jax.tree.leaves(jax.device_get(run.prepare(
      *before, v, progress, beta, values))) for v in (verdicts, other)),
                  strict=True):
    np.testing.assert_array_equal(x, y)


def test_no_question_rests():
  assert _run().last.questions.num_resting == 0


@pytest.mark.slow
def test_eight_devices_do_what_one_does():
  changes = dict(num_questions=8, num_slots=16, num_minibatches=2)
  one, many = _run(**changes), _run((2, 2, 2), **changes)
  for x, y in zip(
      jax.tree.leaves(jax.device_get(one.after.params)),
      jax.tree.leaves(jax.device_get(many.after.params)), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-4)
