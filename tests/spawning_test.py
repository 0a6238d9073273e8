# SPDX-License-Identifier: Apache-2.0
"""Parents and threads in one loop, against some written token by token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import transformer
from meta_cot.rollouts import spawning
from meta_cot.rollouts import threads
from tests import language_search

_STOP, _SPAWN, _END, _OPEN, _FOUND, _NOTHING, _LINE = 2, 3, 8, 9, 10, 11, 12
_SAMPLING = decode.Sampling(temperature=0.8, top_k=12)
_FEW = threads.Rules(
    num_joins=2, num_threads=3, window=24, thread_window=9, sampling=_SAMPLING,
    stop_ids=(_STOP, 13), spawn_id=_SPAWN, message_end_id=_END,
    opening_id=_OPEN, found_id=_FOUND, nothing_id=_NOTHING, line_end_id=_LINE)
RULES = {
    'few': _FEW,
    'one': dataclasses.replace(_FEW, num_joins=3, num_threads=1),
    'narrow': dataclasses.replace(_FEW, window=12, thread_window=4),
    'none': dataclasses.replace(_FEW, num_joins=0),
}


@functools.cache
def _model():
  """A model that writes all marks often."""
  config, params = language_search.make_model('qwen', 'unroll')
  return dataclasses.replace(config, max_length=64), params


def _prompts(num_questions):
  rng = np.random.default_rng(0)
  lengths_Q = rng.integers(2, 6, num_questions).astype(np.int32)
  return rng.integers(8, 16, (num_questions, 6)).astype(np.int32), lengths_Q


@functools.partial(jax.jit, static_argnames=(
    'config', 'rules', 'num_samples', 'num_slots'))
def _rollout(config, params, prompts, lengths, seed, ids=None, *, rules,
             num_samples, num_slots):
  return spawning.rollout(
      config, params, prompts, lengths, jax.random.key(seed), rules=rules,
      num_samples=num_samples, num_slots=num_slots, question_ids_Q=ids)


@functools.partial(jax.jit, static_argnames='config')
def _redraw(config, params, texts_RxX, keys_R, firsts_R):
  """The token that is drawn behind each of a text's, and its log-prob."""
  logits_RxXxV = transformer.forward(config, params, texts_RxX).logits

  def of_row(logits_XxV, key, first):
    at_X = jnp.arange(len(logits_XxV)) - first
    keys_X = jax.vmap(jax.random.fold_in, (None, 0))(
        key, jnp.maximum(at_X, 0))
    return decode.sample(logits_XxV, keys_X, _SAMPLING)

  return jax.vmap(of_row)(logits_RxXxV, keys_R, firsts_R)


def _check_draws(got, prompts_QxP, lengths_Q, rules, num_samples, seed):
  """Every drawn token is the one that follows from its text and its key."""
  config, params = _model()
  num_rows = rules.num_rows
  texts_RxX = np.zeros((len(got.lengths), 40), np.int32)
  firsts_R, keys_R = np.zeros(len(texts_RxX), np.int32), []
  for r, text_X in enumerate(texts_RxX):
    question, sample = divmod(r // num_rows, num_samples)
    size = lengths_Q[question]
    text_X[:size] = prompts_QxP[question, :size]
    text_X[size:size + got.lengths[r]] = got.tokens[r, :got.lengths[r]]
    firsts_R[r] = size + got.starts[r] - 1
    key = jax.random.key(seed)
    for number in (question, sample, r % num_rows):
      key = jax.random.fold_in(key, number)
    keys_R.append(key)
  tokens_RxX, log_probs_RxX = jax.device_get(_redraw(
      config, params, texts_RxX, jnp.stack(keys_R), firsts_R))
  for r, (first, start, end) in enumerate(
      zip(firsts_R, got.starts, got.lengths)):
    drawn = slice(first, first + end - start)
    assert got.tokens[r, start:end].tolist() == tokens_RxX[r, drawn].tolist()
    np.testing.assert_allclose(
        got.log_probs[r, start:end], log_probs_RxX[r, drawn], atol=1e-4)
    assert not got.log_probs[r, :start].any()
    assert not got.log_probs[r, end:].any() and not got.tokens[r, end:].any()


def _messages(rules, text):
  """Pieces that end with their mark, the first ones, behind that of threads.
  """
  found, message = [], [_SPAWN]
  for token in text:
    message.append(token)
    if token == _END:
      found.append(message[:rules.thread_window - 1])
      message = [_SPAWN]
  return found[:rules.num_threads]


def _line(row, begun):
  drawn = row[len(begun):]
  if _OPEN not in drawn or row[-1] not in _FEW.stop_ids:
    return [_NOTHING]
  last = len(row) - 1 - row[::-1].index(_OPEN)
  return [_FOUND, *row[last + 1:-1], _LINE]


def _is_whole(text, limit):
  """Whether a row has ended, where it must and not before."""
  ends = [t in (*_FEW.stop_ids, _SPAWN) for t in text]
  return not any(ends[:-1]) and (ends[-1] or len(text) == limit)


def _begun(rules, texts, starts):
  """What every row that there must be begins with, from rows before it."""
  found, begun = {}, []
  for j in range(rules.num_joins + 1):
    number = j * (rules.num_threads + 1)
    found[number], text = begun, texts[number]
    assert _is_whole(text[len(begun):], rules.window - len(begun))
    if text[-1] != _SPAWN or len(text) == rules.window or (
        j == rules.num_joins):
      break
    begun = list(text)
    for c, message in enumerate(_messages(rules, text[starts[number]:]), 1):
      found[number + c] = message
      thread = texts[number + c]
      assert _is_whole(
          thread[len(message):], rules.thread_window - len(message))
      begun += _line(thread, message)
    if len(begun) >= rules.window:
      break
  return found


@pytest.mark.parametrize('name', [
    'few', *(pytest.param(name, marks=pytest.mark.slow)
             for name in sorted(set(RULES) - {'few'}))])
def test_rows_follow_from_those_before_and_from_their_keys(name):
  rules, (config, params) = RULES[name], _model()
  prompts_QxP, lengths_Q = _prompts(4)
  got = jax.device_get(_rollout(
      config, params, prompts_QxP, lengths_Q, 3, rules=rules, num_samples=10,
      num_slots=16))
  seen, size = set(), rules.num_rows
  for n in range(40):
    rows = slice(n * size, (n + 1) * size)
    texts = [
        row[:length].tolist()
        for row, length in zip(got.tokens[rows], got.lengths[rows])]
    begun = _begun(rules, texts, got.starts[rows])
    for k, text in enumerate(texts):
      assert bool(text) == (k in begun)
      assert got.starts[n * size + k] == len(begun.get(k, ()))
      assert text[:len(begun.get(k, ()))] == begun.get(k, [])
    seen |= {len(begun)} | {
        'joined' for k, text in begun.items()
        if k % (rules.num_threads + 1) == 0 and _FOUND in text}
  assert name == 'none' or len(seen) > 2
  assert name != 'few' or 'joined' in seen
  assert got.num_live == got.lengths.sum()
  _check_draws(got, prompts_QxP, lengths_Q, rules, 10, 3)


def test_slots_and_other_questions_change_nothing():
  rules, (config, params) = _FEW, _model()
  prompts_QxP, lengths_Q = _prompts(4)
  ids_Q = np.array([9, 4, 7, 1], np.int32)
  run = functools.partial(_rollout, config, params, rules=rules, num_samples=3)
  whole = run(prompts_QxP, lengths_Q, 0, ids_Q, num_slots=24)
  few = run(prompts_QxP, lengths_Q, 0, ids_Q, num_slots=2)
  alone = run(prompts_QxP[1:2], lengths_Q[1:2], 0, ids_Q[1:2], num_slots=1)
  rows = 3 * rules.num_rows
  for field in ('tokens', 'starts', 'lengths'):
    a, b, c = (np.asarray(getattr(x, field)) for x in (whole, few, alone))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a[rows:2 * rows], c)
  np.testing.assert_allclose(whole.log_probs, few.log_probs, atol=1e-5)
  assert whole.num_steps < few.num_steps
  before = _rollout._cache_size()
  run(prompts_QxP[::-1].copy(), lengths_Q[::-1].copy(), 1, ids_Q, num_slots=2)
  assert _rollout._cache_size() == before  # other texts compile nothing
  for got, slots in ((whole, 24), (few, 2), (alone, 1)):
    assert got.num_steps <= rules.max_steps(len(got.lengths), slots)
    assert got.num_live == np.asarray(got.lengths).sum()


def test_eight_devices_draw_what_one_draws():
  rules, (config, params) = _FEW, _model()
  prompts_QxP, lengths_Q = _prompts(8)
  run = lambda params, prompts, lengths: _rollout(
      config, params, prompts, lengths, 5, rules=rules, num_samples=2,
      num_slots=16)
  one = run(params, prompts_QxP, lengths_Q)
  mesh = sharding.make_mesh(sharding.MeshConfig(4, 1, 2))
  with sharding.use_mesh(mesh):
    placed = sharding.split_batch((prompts_QxP, lengths_Q), mesh)
    many = run(jax.device_put(params, sharding.replicated(mesh)), *placed)
    assert many.tokens.sharding.is_equivalent_to(sharding.batch(mesh), 2)
  for field in ('tokens', 'starts', 'lengths'):
    np.testing.assert_array_equal(getattr(one, field), getattr(many, field))
  np.testing.assert_allclose(one.log_probs, many.log_probs, atol=1e-4)


@pytest.mark.parametrize('name', ['num_joins', 'num_threads', 'thread_window'])
def test_wrong_rules_are_refused(name):
  with pytest.raises(ValueError, match=f'{name}: got -1'):
    dataclasses.replace(_FEW, **{name: -1})


def test_what_does_not_fit_is_refused():
  config, params = _model()
  prompts_QxP, lengths_Q = _prompts(4)
  run = functools.partial(
      _rollout, config, params, prompts_QxP, lengths_Q, 0, num_samples=1,
      num_slots=2)
  with pytest.raises(ValueError, match='max_length'):
    run(rules=dataclasses.replace(_FEW, window=60))
  with pytest.raises(ValueError, match='marks: got'):
    run(rules=dataclasses.replace(_FEW, found_id=10_000))
