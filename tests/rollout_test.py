# SPDX-License-Identifier: Apache-2.0
"""Trajectories of episodes, against one written token by token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import transformer
from meta_cot.rollouts import episodes
from meta_cot.rollouts import rollout as rollout_lib
from meta_cot.rollouts import rows as rows_lib
from tests import language_search

_STOP, _GIVE_UP, _RESET, _PAD = 2, 5, (6, 7), 0
_SAMPLING = decode.Sampling(temperature=0.7, top_k=10)
_PLAIN = episodes.Episodes(
    num_episodes=3, episode_length=5, sampling=_SAMPLING, stop_ids=(_STOP,))


@dataclasses.dataclass(frozen=True)
class _Feedback:
  """The number of tokens and what is hidden, as tokens; odd ones say less."""

  is_on_host: bool
  length = 2

  def __call__(self, hidden_S, tokens_SxT, lengths_S):
    shape = lambda *shape: jax.ShapeDtypeStruct(
        (len(tokens_SxT), *shape), jnp.int32)
    if self.is_on_host:
      said_SxF, number_S = jax.pure_callback(
          lambda *x: _say(np, *x), (shape(2), shape()), hidden_S, lengths_S,
          vmap_method='sequential')
    else:
      said_SxF, number_S = _say(jnp, hidden_S, lengths_S)
    return said_SxF, number_S, jnp.zeros(len(tokens_SxT))


def _say(xp, hidden_S, lengths_S):
  said = xp.stack([8 + lengths_S % 4, 12 + hidden_S % 4], axis=1)
  return said.astype(np.int32), (2 - lengths_S % 2).astype(np.int32)


RULES = {
    'plain': _PLAIN,
    'single': dataclasses.replace(_PLAIN, num_episodes=1),
    'reset': dataclasses.replace(
        _PLAIN, give_up_id=_GIVE_UP, reset_ids=_RESET),
    'ends': dataclasses.replace(
        _PLAIN, stop_ids=(9, _STOP, 14), give_up_id=_GIVE_UP),
    'budget': dataclasses.replace(_PLAIN, max_tokens=8, reset_ids=_RESET),
    'window': dataclasses.replace(
        _PLAIN, num_episodes=4, window=2, reset_ids=_RESET),
    'no_window': dataclasses.replace(_PLAIN, window=0),
    'feedback': dataclasses.replace(
        _PLAIN, feedback=_Feedback(False), reset_ids=_RESET),
    'feedback_on_host': dataclasses.replace(
        _PLAIN, feedback=_Feedback(True), reset_ids=_RESET),
    'feedback_in_a_window': dataclasses.replace(
        _PLAIN, num_episodes=4, window=2, feedback=_Feedback(False)),
}


@functools.cache
def _model(loop: str = 'unroll'):
  config, params = language_search.make_model('qwen', loop)
  # Ends are likelier than one token of many.
  return dataclasses.replace(config, max_length=64), params


def _prompts(num_questions: int):
  rng = np.random.default_rng(0)
  lengths_Q = rng.integers(2, 6, num_questions).astype(np.int32)
  return rng.integers(8, 16, (num_questions, 6)).astype(np.int32), lengths_Q


@functools.partial(jax.jit, static_argnames=(
    'config', 'rules', 'num_samples', 'num_slots'))
def _rollout(config, params, prompts, lengths, seed, ids=None, first=None, *,
             rules, num_samples, num_slots):
  hidden_Q = None
  if rules.feedback is not None:  # follows from the question
    hidden_Q = jnp.arange(len(lengths)) if ids is None else ids
  return rollout_lib.rollout(
      config, params, prompts, lengths, jax.random.key(seed), rules=rules,
      num_samples=num_samples, num_slots=num_slots, question_ids_Q=ids,
      beginning=first, hidden=hidden_Q)


@functools.cache
def _draw(config):
  """(params, tokens, length, key) -> the next token and its log-prob."""

  @jax.jit
  def draw(params, tokens_L, length, key):
    logits_LxV = transformer.forward(config, params, tokens_L[None]).logits[0]
    token, log_prob = decode.sample(
        logits_LxV[length - 1][None], key[None], _SAMPLING)
    return token[0], log_prob[0]

  return draw


def _by_hand(rules, question, sample, prompt, seed):
  """The rows of one trajectory: [(token, log_prob, episode)]."""
  config, params = _model()
  key = jax.random.fold_in(
      jax.random.fold_in(jax.random.key(seed), question), sample)
  rows, row, attempts, drawn = [], [], [], 0
  for episode in range(rules.num_episodes):
    if rules.is_windowed:
      row = [t for a in attempts[len(attempts) - rules.window:] for t in a] if (
          rules.window) else []
    attempt, said = [], []
    while True:
      tokens_L = np.zeros(64, np.int32)
      text = [*prompt, *(token for token, *_ in row)]
      tokens_L[:len(text)] = text
      token, log_prob = _draw(config)(
          params, tokens_L, len(text), jax.random.fold_in(key, drawn))
      attempt.append((int(token), float(log_prob), episode))
      row.append(attempt[-1])
      drawn += 1
      is_spent = rules.max_tokens is not None and drawn >= rules.max_tokens
      if is_spent or len(attempt) == rules.episode_length or (
          int(token) in (*rules.stop_ids, rules.give_up_id)):
        break
    if rules.feedback is not None:
      tokens, length = _say(
          np, np.array([question]), np.array([len(attempt)]))
      said += tokens[0, :length[0]].tolist()
    forced = [(t, 0.0, -1) for t in (*said, *rules.reset_ids)]
    attempts.append([(t, 0.0, -1) for t, *_ in attempt] + forced)
    if rules.is_windowed:
      rows.append(row)
    if is_spent:
      break
    if not rules.is_windowed and episode + 1 < rules.num_episodes:
      row += forced
  return rows if rules.is_windowed else [row]


@pytest.mark.parametrize('name', RULES)
def test_trajectories_are_those_written_one_by_one(name):
  rules, (config, params) = RULES[name], _model()
  prompts_QxP, lengths_Q = _prompts(4)
  got = jax.device_get(_rollout(
      config, params, prompts_QxP, lengths_Q, 3, rules=rules, num_samples=3,
      num_slots=5))
  per_row = rules.rows_per_trajectory
  kinds = set()
  for n in range(12):
    question, sample = divmod(n, 3)
    rows = _by_hand(
        rules, question, sample,
        prompts_QxP[question, :lengths_Q[question]].tolist(), 3)
    for k, row in enumerate(rows):
      r = n * per_row + k
      assert got.lengths[r] == len(row)
      assert got.tokens[r, :len(row)].tolist() == [t for t, *_ in row]
      assert got.episode[r, :len(row)].tolist() == [e for *_, e in row]
      np.testing.assert_allclose(
          got.log_probs[r, :len(row)], [p for _, p, _ in row], atol=1e-4)
      assert not got.is_sampled[r, len(row):].any()
      np.testing.assert_array_equal(got.is_sampled[r], got.episode[r] >= 0)
      kinds.add(len(row))
    for e in range(rules.num_episodes):
      row = got.episode[n * per_row + (e if rules.is_windowed else 0)]
      at = np.flatnonzero(row == e)
      if len(at):
        assert (got.starts[n, e], got.ends[n, e]) == (at[0], at[-1] + 1)
        last = got.tokens[n * per_row + (e if rules.is_windowed else 0), at[-1]]
        assert got.is_finished[n, e] == (last in rules.stop_ids)
        assert got.has_given_up[n, e] == (last == rules.give_up_id)
      else:
        assert got.ends[n, e] == 0 and not got.is_finished[n, e]
  assert len(kinds) > 1
  assert got.num_live == got.lengths.sum()


@pytest.mark.parametrize('name', (
    'window', 'feedback_on_host', *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ('reset', 'feedback'))))
def test_slots_and_other_questions_change_nothing(name):
  rules, (config, params) = RULES[name], _model()
  prompts_QxP, lengths_Q = _prompts(4)
  ids_Q = np.array([9, 4, 7, 1], np.int32)
  run = functools.partial(_rollout, config, params, rules=rules, num_samples=2)
  whole = run(prompts_QxP, lengths_Q, 0, ids_Q, num_slots=8)
  few = run(prompts_QxP, lengths_Q, 0, ids_Q, num_slots=3)
  alone = run(prompts_QxP[1:2], lengths_Q[1:2], 0, ids_Q[1:2], num_slots=1)
  rows = 2 * rules.rows_per_trajectory
  for field in (
      'tokens', 'episode', 'lengths', 'starts', 'ends', 'is_finished'):
    a, b, c = (np.asarray(getattr(x, field)) for x in (whole, few, alone))
    np.testing.assert_array_equal(a, b)
    n = 2 if a.shape[0] == 8 and field not in (
        'tokens', 'episode', 'lengths') else rows
    np.testing.assert_array_equal(a[n:2 * n], c)
  np.testing.assert_allclose(whole.log_probs, few.log_probs, atol=1e-5)
  assert int(few.num_live) == int(whole.num_live)


@pytest.mark.parametrize('name, mesh, loop', [
    pytest.param('reset', (8, 1, 1), 'unroll', marks=pytest.mark.slow),
    ('window', (2, 2, 2), 'scan'),
    pytest.param('feedback', (8, 1, 1), 'unroll', marks=pytest.mark.slow),
    ('feedback_on_host', (4, 1, 2), 'unroll')])
def test_eight_devices_draw_what_one_draws(name, mesh, loop):
  rules, (config, params) = RULES[name], _model(loop)
  prompts_QxP, lengths_Q = _prompts(8)
  run = lambda params, prompts, lengths: _rollout(
      config, params, prompts, lengths, 5, rules=rules, num_samples=4,
      num_slots=16)
  one = run(params, prompts_QxP, lengths_Q)
  mesh = sharding.make_mesh(sharding.MeshConfig(*mesh))
  with sharding.use_mesh(mesh):
    placed = sharding.split_batch((prompts_QxP, lengths_Q), mesh)
    many = run(jax.device_put(params, sharding.replicated(mesh)), *placed)
    assert many.tokens.sharding.is_equivalent_to(sharding.batch(mesh), 2)
  for field in ('tokens', 'episode', 'lengths', 'ends', 'is_finished'):
    np.testing.assert_array_equal(getattr(one, field), getattr(many, field))
  np.testing.assert_allclose(one.log_probs, many.log_probs, atol=1e-4)


def test_rows_are_what_was_read():
  rules, (config, params) = RULES['reset'], _model()
  prompts_QxP, lengths_Q = _prompts(3)
  done = _rollout(
      config, params, prompts_QxP, lengths_Q, 2, rules=rules, num_samples=2,
      num_slots=2)
  rows = jax.device_get(rows_lib.assemble(
      prompts_QxP, lengths_Q, done, pad_id=_PAD))
  for r in range(6):
    q, length = r // 2, int(done.lengths[r])
    new = np.asarray(done.tokens)[r, :length]
    text = [*prompts_QxP[q, :lengths_Q[q]], *new]
    assert rows.tokens[r, :len(text)].tolist() == text[:rows.tokens.shape[1]]
    assert rows.targets[r, :len(text) - 1].tolist() == text[1:]
    np.testing.assert_array_equal(
        rows.is_sampled[r, lengths_Q[q] - 1:][:length],
        done.is_sampled[r, :length])
    assert rows.is_sampled[r].sum() == np.asarray(done.is_sampled)[r].sum()
  assert rows.trajectory.tolist() == list(range(6))
  # The trainer's log-probs of what was drawn are the sampler's (fp32).
  logits = transformer.forward(config, params, jnp.asarray(rows.tokens)).logits
  flat = logits.reshape(-1, logits.shape[-1])
  trained = jax.nn.log_softmax(decode.truncate(flat, _SAMPLING)).reshape(
      logits.shape)
  trained = np.take_along_axis(
      np.asarray(trained), rows.targets[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(
      np.where(rows.is_sampled, trained, 0.0), rows.behaviour, atol=1e-4)
  assert (rows.tokens[rows.is_sampled] >= 0).all()
  # The token that ends an episode is trained.
  assert (rows.targets[rows.is_sampled] == _STOP).any()


def test_slots_are_used():
  config, params = _model()
  prompts_QxP, lengths_Q = _prompts(8)
  rules = dataclasses.replace(_PLAIN, num_episodes=1, episode_length=40)
  run = functools.partial(
      _rollout, config, params, prompts_QxP, lengths_Q, 1, rules=rules,
      num_samples=8)
  share = lambda done, slots: int(done.num_live) / (int(done.num_steps) * slots)
  all_at_once, refilled = run(num_slots=64), run(num_slots=8)
  assert share(refilled, 8) > 0.85 > share(all_at_once, 64)


@pytest.mark.parametrize('changes, words', [
    (dict(num_episodes=0), 'num_episodes: got 0; must be at least 1.'),
    (dict(episode_length=0), 'episode_length: got 0'),
    (dict(max_tokens=0), 'max_tokens: got 0'),
    (dict(window=-1), 'window: got -1'),
    (dict(give_up_id=_STOP), 'give_up_id: got 2')])
def test_impossible_rules(changes, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(_PLAIN, **changes)


def test_feedback_needs_what_is_hidden():
  config, params = _model()
  with pytest.raises(ValueError, match='hidden: got None'):
    rollout_lib.rollout(
        config, params, *_prompts(2), jax.random.key(0), num_samples=1,
        num_slots=2, rules=RULES['feedback'])


def test_too_long_for_the_model():
  config, params = _model()
  rules = dataclasses.replace(_PLAIN, episode_length=40)
  with pytest.raises(ValueError, match='120 tokens after prompts of 6'):
    _rollout(config, params, *_prompts(2), 0, rules=rules, num_samples=1,
             num_slots=2)
