# SPDX-License-Identifier: Apache-2.0
"""Monte-Carlo values at step boundaries, against all continuations there are.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import transformer
from meta_cot.rollouts import continuations
from meta_cot.rollouts import rows as rows_lib
from tests import small_rl

# Values of a vocabulary of 4 tokens at every place, all continuations listed.
_TINY = dict(
    advantage='vineppo', num_episodes=2, episode_length=3, top_k=3,
    num_rollouts=300, num_samples=2, num_slots=64, discounts=(0.9,),
    step_end=';')


@functools.cache
def _run(objective='erl2', **changes) -> small_rl.Run:
  """After an iteration on one device."""
  run = small_rl.Run(objective, **changes)
  run.iterate()
  return run


def _rollouts(run):
  return jax.device_get(run.calls[0][4])


def _contexts(run, steps):
  """(contexts, rows) of the first iteration."""
  _, _, prompts, lengths, rollouts, *_ = run.calls[0]
  rows = rows_lib.assemble(prompts, lengths, rollouts, pad_id=0)
  find = continuations.jit_contexts(
      steps, run.settings.episodes.episode_length)
  with run.mesh:
    return jax.device_get((find(prompts, lengths, rollouts), rows))


def _frequent(run, rollouts) -> int:
  """What is drawn most and ends no episode; here it ends steps."""
  rules = run.learner.player.rules
  drawn = rollouts.tokens[rollouts.is_sampled]
  return int(np.bincount(drawn[~np.isin(
      drawn, (*rules.stop_ids, rules.give_up_id))]).argmax())


def _steps_of(run, steps) -> list[dict[int, tuple[int, int]]]:
  """Of every trajectory, step j -> where its tokens are, in plain Python."""
  rollouts, found = _rollouts(run), []
  for n in range(len(rollouts.starts)):
    places = {}
    for e in range(rollouts.starts.shape[1]):
      start, end = rollouts.starts[n, e], rollouts.ends[n, e]
      s, begin = 0, start
      for at in range(start, end):
        if s + 1 < steps.number and at + 1 < end and (
            rollouts.tokens[n, at] in steps.end_ids):
          places[e * steps.number + s] = begin, at + 1
          s, begin = s + 1, at + 1
      if end > start:
        places[e * steps.number + s] = begin, end
    found.append(places)
  return found


@pytest.mark.parametrize('number', [
    pytest.param(1, marks=pytest.mark.slow), 2,
    pytest.param(4, marks=pytest.mark.slow)])
def test_contexts_end_where_steps_begin(number):
  run = _run(episode_length=8)
  steps = continuations.Steps((_frequent(run, _rollouts(run)),), number)
  found, rows = _contexts(run, steps)
  rollouts, places = _rollouts(run), _steps_of(run, steps)
  num, num_episodes = rollouts.starts.shape
  of_tokens = np.asarray(steps.of_tokens(rows, num_episodes))
  per_trajectory = num_episodes * steps.number - 1
  lengths_Q = np.asarray(run.calls[0][3])
  for n in range(num):
    prompt = lengths_Q[n * len(lengths_Q) // num]
    want = np.full(of_tokens.shape[1], -1)
    for j, (begin, end) in places[n].items():
      want[prompt + begin - 1:prompt + end - 1] = j
    np.testing.assert_array_equal(of_tokens[n], want)
    for j in range(1, per_trajectory + 1):
      v = n * per_trajectory + j - 1
      episode = j // steps.number
      assert found.beginning.episode[v] == episode
      if j not in places[n]:
        assert found.lengths[v] == 1 and found.beginning.drawn[v] == 0
        continue
      begin = places[n][j][0]
      drawn = begin - rollouts.starts[n, episode]
      assert found.lengths[v] == prompt + begin
      assert found.beginning.drawn[v] == drawn
      written = rollouts.tokens[n, begin - drawn:begin]
      np.testing.assert_array_equal(
          found.written[v, found.written.shape[1] - drawn:], written)
  assert {j % number for place in places for j in place} == set(range(number))


@pytest.mark.parametrize('axes', [
    pytest.param((1, 1, 1), marks=pytest.mark.slow), (4, 1, 2)])
def test_a_greedy_continuation_is_what_came_next(axes):
  """Every text is read once, whatever number of contexts it has."""
  run = small_rl.Run(
      advantage='vineppo', episode_length=8, num_samples=2, num_rollouts=1,
      axes=axes)
  run.iterate()
  rules = dataclasses.replace(
      run.learner.player.rules, sampling=decode.Sampling(temperature=0.0))
  with run.mesh:
    asked = run.learner.player
    _, _, prompts, lengths, *_ = run.calls[0]
    play = continuations.jit_continue(
        run.model, rules=rules, num_rollouts=1, num_slots=16)
    zeros = sharding.split_batch(
        np.zeros(len(lengths), np.int32), run.devices)
    beginning = continuations.queue.Beginning(zeros, zeros)
    rng = jax.random.key(0)
    whole = play(run.setup.start, prompts, lengths, beginning, rng)
    steps = continuations.Steps((_frequent(run, asked.fetch(whole)),), 3)
    found = continuations.jit_contexts(steps, rules.episode_length)(
        prompts, lengths, whole)
    goes_on = asked.fetch(play(
        run.setup.start, found.texts, found.lengths, found.beginning, rng))
    whole, found = asked.fetch((whole, found))
  joined = continuations.rejoin(goes_on, found, 1)
  later = 3 * steps.number - 1
  num_inside = 0
  for v in range(len(found.lengths)):
    n, episode = v // later, found.beginning.episode[v]
    if found.lengths[v] == 1:  # there was no such step
      continue
    num_inside += found.beginning.drawn[v] > 0
    for e in range(episode, 3):
      same = lambda x, row, e=e: x.tokens[row, x.starts[row, e]:x.ends[row, e]]
      np.testing.assert_array_equal(same(joined, v), same(whole, n))
      assert joined.is_finished[v, e] == whole.is_finished[n, e]
  assert num_inside > 0


@functools.cache
def _next(model):
  @jax.jit
  def probs(params, tokens_BxL, lengths_B, sampling=None):
    logits = transformer.forward(model, params, tokens_BxL).logits
    last_BxV = jnp.take_along_axis(
        logits, lengths_B[:, None, None] - 1, axis=1)[:, 0]
    return jax.nn.softmax(decode.truncate(
        last_BxV, decode.Sampling(temperature=0.8, top_k=3)))

  return lambda params, tokens, lengths: np.asarray(
      probs(params, tokens, lengths), np.float64)


def _value(run, context, episode, weights, before, attempt=()) -> float:
  """The exact mean worth of all that may follow a context."""
  rules = run.learner.player.rules
  live = [(list(context), 1.0, list(attempt), episode, before, 0.0)]
  worth = 0.0
  while live:
    tokens = np.zeros((1024, 40), np.int32)
    for i, (text, *_) in enumerate(live):
      tokens[i, :len(text)] = text
    lengths = np.ones(1024, np.int32)
    lengths[:len(live)] = [len(text) for text, *_ in live]
    probs = _next(run.model)(run.setup.start, tokens, lengths)
    old, live = live, []
    for row, (text, p, attempt, e, drawn, total) in zip(probs, old):
      for token in np.flatnonzero(row > 0).tolist():
        longer = [*attempt, token]
        state = [*text, token], p * row[token], longer, e, drawn, total
        if len(longer) < rules.episode_length and (
            token not in (*rules.stop_ids, rules.give_up_id)):
          live.append(state)
          continue
        total_now = total + weights[e] * (sum(longer) % 2) * 0.9 ** drawn
        if e + 1 == rules.num_episodes:
          worth += state[1] * total_now
        else:
          live.append((
              [*state[0], *rules.reset_ids], state[1], [], e + 1,
              drawn + len(longer), total_now))
  return worth


@pytest.mark.parametrize('objective, weights', [
    ('erl2', (0, 1)),
    pytest.param('rl2', (1, 1), marks=pytest.mark.slow)])
def test_values_are_the_means_of_all_continuations(objective, weights):
  run = _run(objective, **_TINY)
  _, _, prompts, lengths, rollouts, verdicts, _, _, values = (
      jax.device_get(run.calls[0]))
  steps = run.learner.vine.steps
  places, found, num_inside = _steps_of(run, steps), [], 0
  for n in range(8):
    prompt = prompts[n // 2, :lengths[n // 2]].tolist()
    assert values[n, 0] == values[n - n % 2, 0]
    for j, (begin, _) in places[n].items():
      if j == 0 and n % 2:
        continue
      episode = j // steps.number
      start = rollouts.starts[n, episode]
      num_inside += begin > start
      found.append((values[n, j], _value(
          run, prompt + rollouts.tokens[n, :begin].tolist(), episode, weights,
          int(verdicts.tokens_before[n, episode]),
          rollouts.tokens[n, start:begin].tolist())))
  got, want = np.array(found).T
  # Each is a mean of 300 draws with a deviation of at most 1/2 per episode.
  assert np.abs(got - want).max() < 4 * 0.5 * sum(weights) / 300 ** 0.5
  assert np.abs(got - want).mean() < sum(weights) * 0.5 / 300 ** 0.5
  assert np.ptp(want) > 0.02 and num_inside > 2


def test_earlier_attempts_must_be_in_the_prompt():
  run = small_rl.Run(window=1, num_accumulation=2)
  zeros = jnp.zeros(4, jnp.int32)
  with pytest.raises(ValueError, match='beginning: given with a window or'):
    continuations.jit_continue(
        run.model, rules=run.learner.player.rules, num_rollouts=1,
        num_slots=4)(
            run.setup.start, jnp.ones((4, 6), jnp.int32), zeros + 6,
            continuations.queue.Beginning(zeros, zeros), jax.random.key(0))
