# SPDX-License-Identifier: Apache-2.0
"""The benchmark of reinforcement learning: same work on all sides, JSON lines.

Nothing here asserts a speed.
"""

import functools
import json

import jax
import numpy as np
import pytest

from benchmarks import models
from benchmarks import rl
from benchmarks import rl_workloads as workloads
from benchmarks import table
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib

SIZE = workloads.Stepping(questions=2, samples=3, prompt=5, new_tokens=6)
FLAGS = (
    '--model=toy', '--repeats=1', '--questions=2', '--samples=3', '--prompt=5',
    '--new-tokens=6', '--refills=2', '--episodes=2')
STOP_ID = 3


@functools.cache
def toy():
  return models.get('toy', 'float32')


@functools.cache
def params():
  return models.init(toy(), 0)


@functools.cache
def played():
  return workloads.playing(toy(), SIZE, params(), num_slots=SIZE.rows)()


def test_beta_says_whether_the_reference_holds_the_policy():
  assert workloads.settings(SIZE, 1, 'single').loss.kl_in == 'loss'
  free = workloads.Stepping(beta=0.0)
  assert workloads.settings(free, 1, 'single').loss.kl_in == 'none'


def test_the_reward_is_the_share_of_even_tokens():
  rewards = workloads.judge((), played()).rewards
  np.testing.assert_allclose(
      rewards[:, 0], [np.mean([t % 2 == 0 for t in row.tolist()])
                      for row in played().tokens], atol=1e-6)
  assert rewards.std() > 0


def test_both_samplers_draw_as_many_tokens():
  generation, = workloads.sampling(
      toy(), SIZE, params(), num_rows=SIZE.rows, new_tokens=SIZE.new_tokens)()
  assert played().tokens.shape == generation.tokens.shape == (6, 6)
  assert (played().lengths == 6).all() and (generation.lengths == 6).all()


def test_texts_end_at_random_and_both_sides_do_all_of_them():
  size = workloads.Stepping(questions=16, samples=8, prompt=5, new_tokens=16)
  stopping = workloads.with_stops(toy(), params(), size, STOP_ID, 8)
  ours = workloads.playing(
      toy(), size, stopping, num_slots=32, stop_ids=(STOP_ID,))()
  batches = workloads.sampling(
      toy(), size, stopping, num_rows=32, new_tokens=16, stop_ids=(STOP_ID,))()
  lengths = [
      ours.lengths, np.concatenate([x.lengths for x in batches])]
  for lengths_N in lengths:
    assert len(lengths_N) == size.rows
    assert lengths_N.min() < 4 and lengths_N.max() == 16
  # Mean of a geometric distribution that is cut off at 16 tokens.
  expected = sum((7 / 8) ** t for t in range(16))
  np.testing.assert_allclose(
      [x.mean() for x in lengths], expected, atol=1.5)
  assert ours.num_steps * 32 > ours.num_live == ours.lengths.sum()


def test_stops_leave_other_tokens_as_likely_as_one_another():
  stopping = workloads.with_stops(toy(), params(), SIZE, STOP_ID, 8)
  tokens = workloads.prompts(toy(), SIZE)
  logits = transformer.forward(toy(), stopping, tokens).logits
  probabilities = jax.nn.softmax(logits)
  assert 0.05 < float(probabilities[..., STOP_ID].mean()) < 0.3
  rest = np.delete(np.asarray(probabilities), STOP_ID, axis=-1)
  assert rest.max() < 0.3


@pytest.mark.slow
def test_prints_json(capsys):
  rl.main(FLAGS)
  text = capsys.readouterr().out.splitlines()
  lines = [json.loads(x) for x in text]
  named = [
      (x['workload'], x.get('contestant', x.get('ratio_to'))) for x in lines]
  assert named == [
      ('step', 'ours'), ('erl2', 'ours'),
      ('flat', 'ours'), ('flat', 'all rows'), ('flat', 'all rows'),
      ('lag', 'ours'), ('lag', 'in turn'), ('lag', 'in turn'),
      ('rollout', 'ours'), ('rollout', 'plain'), ('rollout', 'plain'),
      ('refill', 'ours'), ('refill', 'plain'), ('refill', 'batches'),
      ('refill', 'plain'), ('refill', 'batches')]
  step, erl2, refill = lines[0], lines[1], lines[11]
  for line, tokens in (
      (step, 36), (erl2, 72), (lines[3], 36), (lines[5], 36),
      (lines[8], 36)):
    if 'breakdown' in line:  # all tokens that were drawn
      assert line['trained_tokens'] == tokens
    assert line['tokens_per_second'] == pytest.approx(
        tokens / line['seconds']['median'])
  assert lines[2]['trained_tokens'] == 18  # of one question of two
  assert set(step['breakdown']) == {'rollout', 'judge', 'prepare', 'update'}
  assert sum(x['median'] for x in step['breakdown'].values()) <= (
      step['seconds']['max'])
  assert refill['slots'] == 6 and refill['trajectories'] == 12
  assert 0 < refill['occupancy'] <= 1
  assert len(table.make(text).splitlines()) == 2 + 5


def test_runs_one_workload(capsys):
  rl.main([*FLAGS, '--workloads=flat'])
  lines = map(json.loads, capsys.readouterr().out.splitlines())
  assert [x['workload'] for x in lines] == ['flat'] * 3


@pytest.mark.parametrize('flags, words', [
    (['--workloads=flat,refil'], "did you mean 'refill'"),
    (['--workloads=refill', '--against=none'], 'add plain to --against'),
    (['--against=plain,torch'], 'must be some of plain, trl, tunix, or none'),
    (['--against=trl', '--trl-python=/no/python'], None)])
def test_refuses_rivals_that_it_cannot_run(flags, words, capsys):
  error = SystemExit if words else config_lib.UserError
  with pytest.raises(error) as caught:
    rl.main([*FLAGS, *flags])
  assert (words or '--trl-python') in (
      capsys.readouterr().err + str(caught.value))
