# SPDX-License-Identifier: Apache-2.0
"""The yardstick computes what the library computes; the benchmarks print JSON.

Nothing here asserts a speed.
"""

import json
import random
import sys

from flax.linen import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import answers
from benchmarks import decode
from benchmarks import models
from benchmarks import plain
from benchmarks import table
from benchmarks import timing
from benchmarks import train
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib

TRAINING = models.Training(rows=2, length=16)
DECODING = models.Decoding(rows=3, prompt=5, new_tokens=6)
MACHINE = {'device', 'platform', 'cpus', 'date', 'parameters'}


def toy():
  return models.get('toy', 'float32')


def test_plain_sees_every_weight():
  """Noise on any leaf, scales of norms included, changes both alike."""
  model = toy()
  shapes = meta.unbox(jax.eval_shape(
      lambda rng: transformer.init(model, rng), jax.random.key(0)))
  noise = np.random.default_rng(0)
  params = jax.tree.map(
      lambda x: jnp.asarray(0.3 * noise.standard_normal(x.shape), x.dtype),
      shapes)
  tokens_BxL = jnp.asarray(models.prompts(model, DECODING))
  np.testing.assert_allclose(
      plain.forward(model, plain.from_params(model, params), tokens_BxL),
      transformer.forward(model, params, tokens_BxL).logits, atol=1e-5)


def test_updates_by_hand_give_the_losses_of_the_library():
  ours, by_hand = (
      make(toy(), TRAINING) for make in (train.ours, train.by_hand))
  losses = [[ours() for _ in range(4)], [by_hand() for _ in range(4)]]
  assert losses[0][3] < losses[0][0] - 0.05  # it learns, so an update counts
  np.testing.assert_allclose(*losses, atol=1e-5)


def test_sampling_by_hand_gives_the_tokens_of_the_library():
  ours, by_hand = (
      make(toy(), DECODING, 0.0)() for make in (decode.ours, decode.by_hand))
  np.testing.assert_array_equal(ours, by_hand)


def test_samples_of_a_prompt_are_those_of_its_copies():
  """Sampled by the library, which reads the prompt once, and greedily."""
  shared = models.Decoding(rows=6, prompt=5, new_tokens=6, samples=3)
  prompts_BxP = models.prompts(toy(), shared)
  assert len(np.unique(prompts_BxP, axis=0)) == 2
  tokens_BxT = decode.ours(toy(), shared)()
  assert len(np.unique(tokens_BxT, axis=0)) == 6
  np.testing.assert_array_equal(*(
      make(toy(), shared, 0.0)() for make in (decode.ours, decode.by_hand)))
  with pytest.raises(SystemExit):
    decode.main(['--model=toy', '--rows=6', '--samples=4'])


def test_sampled_tokens_vary_and_fill_every_row():
  tokens_BxT = decode.by_hand(toy(), DECODING)()
  assert tokens_BxT.shape == (3, 6)
  assert len(np.unique(tokens_BxT)) > 5


@pytest.mark.parametrize('benchmark_main, flags, tokens, dtype', [
    (train.main, ('--rows=2', '--length=16'), 32, 'float32'),
    (decode.main, ('--rows=3', '--prompt=5', '--new-tokens=6'), 18,
     'bfloat16')])
def test_prints_json(benchmark_main, flags, tokens, dtype, capsys):
  benchmark_main([
      '--model=toy', '--repeats=1', f'--dtype={dtype}', '--layer-loop=scan',
      *flags])
  ours, by_hand, ratio = map(json.loads, capsys.readouterr().out.splitlines())
  assert (ours['contestant'], by_hand['contestant']) == ('ours', 'plain')
  assert MACHINE <= set(ours) and ours['dtype'] == dtype
  assert ours['first_cpu_seconds'] > ours['cpu_seconds']['median']
  assert ours['logits_difference'] < (1e-5 if dtype == 'float32' else 0.05)
  assert ours['tokens_per_second'] == pytest.approx(
      tokens / ours['seconds']['median'])
  assert ratio['ratio_to'] == 'plain'
  assert ratio['ratio']['median'] == pytest.approx(
      by_hand['seconds']['median'] / ours['seconds']['median'])


def test_torch_is_timed_in_the_same_run(capsys):
  train.main([
      '--model=toy', '--repeats=1', '--rows=2', '--length=16',
      '--against=torch'])
  lines = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
  assert [x.get('contestant', 'ratio') for x in lines] == [
      'ours', 'torch', 'ratio']
  assert lines[1]['torch'] and lines[1]['seconds']['min'] > 0


def test_drawn_answers_are_equal_or_not_as_they_say():
  rng = random.Random(0)
  pairs = [answers.draw(rng) for _ in range(300)]
  is_equal = [x for *_, x in pairs]
  assert 100 < sum(is_equal) < 200
  assert answers.ours(pairs) == answers.math_verify(pairs) == is_equal


def test_answers_are_judged_by_both_in_two_processes(capsys):
  answers.main(['--answers=20', '--cores=2', '--repeats=1'])
  ours, theirs, ratio = map(json.loads, capsys.readouterr().out.splitlines())
  assert (ours['contestant'], theirs['contestant']) == ('ours', 'math_verify')
  assert ours['right'] == theirs['right'] == ratio['agreement'] == 1
  assert ours['answers_per_second'] == pytest.approx(
      20 / ours['seconds']['median'])
  assert ratio['ratio_to'] == 'math_verify'


def test_contestants_take_turns_and_the_order_turns_too():
  calls = []

  def contestant(name):
    def call():
      calls.append(name)
      return timing.Cost(float(len(calls)), 1.0)

    return timing.Contestant(name, call, {})

  pair = [contestant('a'), contestant('b')]
  costs = timing.measure(pair, 2)
  assert calls == ['b', 'a', 'a', 'b', 'b', 'a']
  assert [c.seconds for c in costs['a']] == [3.0, 6.0]
  *_, ratio = timing.report(pair, costs, tokens=1, facts={})
  assert ratio['ratio'] == dict(
      median=(4 / 3 + 5 / 6) / 2, min=5 / 6, max=4 / 3)


def test_table_has_a_row_for_every_ratio():
  pair = [timing.Contestant(x, lambda: None, {}) for x in ('ours', 'plain')]
  costs = dict(ours=[timing.Cost(2.0, 4.0)], plain=[timing.Cost(3.0, 4.0)])
  facts = dict(workload='train', model='S', dtype='float32', date='2026-11-21')
  lines = timing.report(pair, costs, tokens=6000, facts=facts)
  *_, row = table.make(map(json.dumps, lines)).splitlines()
  assert row == (
      '| train | S | plain | 1.50 (1.50-1.50) | 1.00 (1.00-1.00) '
      '| 3,000 | 2,000 | 2026-11-21 |')


def test_a_missing_interpreter_is_named():
  with pytest.raises(config_lib.UserError, match="cannot start '/no/python'"):
    with timing.peer('tunix', '/no/python', {}):
      pass


def test_a_peer_that_stops_is_an_error():
  with pytest.raises(config_lib.UserError, match='stopped with exit code 1'):
    with timing.peer('torch', '/bin/false', {}):
      pass


@pytest.mark.parametrize('flags, words', [
    (['--against=plain,vllm'], "got 'vllm'; must be some of plain"),
    (['--repeats=0'], "got '0'; must be at least 1")])
def test_refuses_bad_flags(flags, words, capsys):
  with pytest.raises(SystemExit):
    train.main(['--model=toy', *flags])
  assert words in capsys.readouterr().err


def test_warns_without_the_memory_settings(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'platform', 'linux')
  monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
  timing.check_allocator()
  assert 'launch/environment.sh' in capsys.readouterr().err
  monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1')
  timing.check_allocator()
  assert not capsys.readouterr().err
