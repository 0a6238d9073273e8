# SPDX-License-Identifier: Apache-2.0
"""Labels of states by completions, against all completions that there are."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import transformer
from meta_cot.problem import Problem, Verdict
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import labels
from tests import language_search

_SAMPLING = decode.Sampling(temperature=0.2)
_EOS, _LENGTH = tuple(range(1, 16, 2)), 3


@functools.cache
def _model():
  config, params = language_search.make_model('qwen')
  return dataclasses.replace(config, max_length=32), params


def _states(number: int) -> list[labels.State]:
  """Questions of 2 to 5 tokens, each with 0 to 3 tokens of steps."""
  rng = np.random.default_rng(3)
  draw = lambda low, high: tuple(
      rng.integers(4, 16, rng.integers(low, high)).tolist())
  return [
      labels.State(Problem(str(i), '', '', dict(remainder=i % 2)),
                   draw(2, 6), draw(0, 4)) for i in range(number)]


def _is_right(remainder, tokens) -> bool:
  return sum(tokens) % 4 // 2 == remainder


def _outcome(problem, tokens_M, length):
  total = jnp.sum(jnp.where(jnp.arange(len(tokens_M)) < length, tokens_M, 0))
  return (total % 4 // 2 == problem['remainder']).astype(jnp.float32)


def _labeler(num_rollouts, *, judge=None, axes=(1, 1, 1), num_states=4,
             num_slots=None):
  config, _ = _model()
  mesh = sharding.make_mesh(
      sharding.MeshConfig(*axes), jax.devices()[:int(np.prod(axes))])
  return labels.Labeler(
      labels.jit_complete(
          config, mesh, rules=labels.rules(_SAMPLING, _LENGTH, _EOS),
          num_rollouts=num_rollouts,
          num_slots=num_slots or num_states * num_rollouts,
          outcome=None if judge else _outcome),
      mesh, num_states=num_states, width=6, step_width=4, pad_id=0,
      inputs=lambda problems: [
          dict(remainder=np.int32(p.data['remainder'])) for p in problems],
      judge=judge)


def _count(labeler, states, seed=0):
  with sharding.use_mesh(labeler.mesh):
    return labeler(
        jax.device_put(_model()[1], sharding.replicated(labeler.mesh)), states,
        jax.random.key(seed))


@functools.cache
def _next():
  """(texts, lengths) -> probabilities of the next token, of whole texts."""
  config, params = _model()

  @jax.jit
  def probabilities(tokens_BxL, lengths_B):
    logits = transformer.forward(config, params, tokens_BxL).logits
    return jax.nn.softmax(decode.truncate(jnp.take_along_axis(
        logits, lengths_B[:, None, None] - 1, axis=1)[:, 0], _SAMPLING))

  def call(texts):
    assert len(texts) <= 128
    tokens = np.zeros((128, 16), np.int32)
    for row, text in zip(tokens, texts, strict=False):
      row[:len(text)] = text
    lengths = np.ones(128, np.int32)
    lengths[:len(texts)] = [len(text) for text in texts]
    return np.asarray(probabilities(tokens, lengths), np.float64)

  return call


@functools.cache
def _exact(number: int) -> np.ndarray:
  """The probability of success of every state, all completions listed."""
  found = []
  for problem, question, steps in _states(number):
    live, total = [((), 1.0)], 0.0
    for _ in range(_LENGTH):
      rows = _next()([question + steps + text for text, _ in live])
      longer = [
          ((*text, token), p * row[token])
          for (text, p), row in zip(live, rows, strict=False)
          for token in np.flatnonzero(row > 0).tolist()]
      total += sum(p for text, p in longer if text[-1] in _EOS and _is_right(
          problem.data['remainder'], steps + text))
      live = [x for x in longer if x[0][-1] not in _EOS]
    found.append(total)
  return np.array(found)


def test_labels_come_to_the_exact_probability():
  """The error falls as 1 / sqrt(G): it is that of G independent draws."""
  exact, spread = _exact(12), []
  assert 0.02 < exact.min() and exact.max() < 0.98 and exact.std() > 0.03
  for number in (16, 64, 256):
    labeler = _labeler(number, num_states=6)
    errors = np.concatenate([
        _count(labeler, _states(12), seed)[0] / number - exact
        for seed in range(4)])
    assert abs(errors).max() < 5 * 0.5 / number ** 0.5
    scaled = errors * (number / np.tile(exact * (1 - exact), 4)) ** 0.5
    spread.append(np.mean(scaled ** 2))
  # Of 48 squares of a standard normal each; three deviations are 0.61.
  np.testing.assert_allclose(spread, 1.0, atol=0.61)


@functools.cache
def _draw():
  """(tokens, length, key) -> the next token."""
  config, params = _model()

  @jax.jit
  def draw(tokens_L, length, key):
    logits = transformer.forward(config, params, tokens_L[None]).logits[0]
    return decode.sample(logits[length - 1][None], key[None], _SAMPLING)[0][0]

  return draw


def _by_hand(state, sample, seed) -> list[int]:
  """One completion; the whole text is read again for every token."""
  key = jax.random.fold_in(jax.random.fold_in(
      jax.random.key(seed), labels.number_of(state)), sample)
  tokens = []
  while len(tokens) < _LENGTH and (not tokens or tokens[-1] not in _EOS):
    text = [*state.question, *state.steps, *tokens]
    tokens.append(int(_draw()(
        np.array(text + [0] * (16 - len(text)), np.int32), len(text),
        jax.random.fold_in(key, len(tokens)))))
  return tokens


def _claim(problem, tokens):
  """The verdict on the host, which is told no end of a text."""
  return judge_lib.Claim('', Verdict(
      _is_right(problem.data['remainder'], tokens), ''))


def test_completions_are_those_that_read_the_state_again():
  """The host is told them without their ends, each once."""
  asked = []
  judge = types.SimpleNamespace(claim=lambda problem, tokens: (
      asked.append((problem.id, tokens)), _claim(problem, tokens))[1])
  labeler = _labeler(6, judge=judge, num_states=3, num_slots=4)
  states, num_right, num_tokens = _states(5), [], 0
  got, got_tokens = _count(labeler, states, seed=1)
  wanted = set()
  for state in states:
    texts = [_by_hand(state, sample, 1) for sample in range(6)]
    num_tokens += sum(map(len, texts))
    ended = [(*state.steps, *t[:-1]) for t in texts if t[-1] in _EOS]
    wanted |= {(state.problem.id, text) for text in ended}
    num_right.append(sum(
        _is_right(state.problem.data['remainder'], t) for t in ended))
  np.testing.assert_array_equal(got, num_right)
  assert got_tokens == num_tokens
  assert set(asked) == wanted and 0 < sum(num_right) < len(wanted) < 30
  assert len(asked) == len(wanted)


@functools.cache
def _alone():
  return _count(_labeler(8), _states(10))


@pytest.mark.parametrize('changes', [
    dict(num_states=3, num_slots=7), dict(axes=(2, 1, 2), num_slots=8)])
def test_other_states_slots_and_devices_change_no_label(changes):
  alone, tokens = _alone()
  others, other_tokens = _count(_labeler(8, **changes), _states(10)[::-1])
  np.testing.assert_array_equal(alone, others[::-1])
  assert tokens == other_tokens > 10 * 8 and len(set(alone.tolist())) > 2
