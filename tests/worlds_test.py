# SPDX-License-Identifier: Apache-2.0
"""Worlds with something hidden: their laws, their optima, their readers."""

import dataclasses
import functools
import itertools
import pickle
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import arms
from data_pipelines.tokenizers import sentencepiece
from meta_cot import tasks
from meta_cot.rollouts import feedback as feedback_lib
from meta_cot.rollouts import judge as judge_lib
from meta_cot.settings import config as config_lib
from meta_cot.tasks.worlds import harbour
from meta_cot.tasks.worlds import hilo
from meta_cot.tasks.worlds import mastermind
from meta_cot.tasks.worlds import optimum
from meta_cot.tasks.worlds import safe
from tests import small_worlds

make, tokenizer, WORLDS = (
    small_worlds.make, small_worlds.tokenizer, small_worlds.WORLDS)


@pytest.fixture(params=WORLDS, scope='module')
def world(request):
  return make(request.param)


def test_problems_follow_from_their_place_alone(world):
  again = pickle.loads(pickle.dumps(world))
  seen = set()
  for split in world.splits:
    whole = list(world.problems(split, 0, 10**6))
    assert len(whole) == world.size(split)
    assert list(again.problems(split, 17, 31)) == whole[17:31]
    seen |= {problem.id for problem in whole}
    for problem in whole[:20]:
      assert world.verify(problem, '') == tasks.Verdict(
          False, 'not what is hidden')
      assert problem.answer in world.prior(problem.question)
    assert list(dataclasses.replace(world, seed=4).problems(
        split, 0, 50)) != whole[:50]
  assert len(seen) == sum(map(world.size, world.splits))
  with pytest.raises(ValueError, match="split: got 'exam'; must be one of"):
    world.size('exam')
  with pytest.raises(ValueError, match='start: got -1'):
    world.problems('train', -1, 1)


def test_what_is_hidden_is_as_likely_as_is_said(world):
  problem = next(world.problems('train', 0, 1))
  assert sum(world.prior(problem.question).values()) == pytest.approx(1)
  many = dataclasses.replace(world, settings=dataclasses.replace(
      world.settings, num_train=4_000, num_heldout=4_000))
  for split in world.splits:
    share = np.mean([
        max(prior.values()) == prior[p.answer] for p in many.problems(
            split, 0, 4_000) for prior in [world.prior(p.question)]])
    want = dict(safe=0.3, harbour=0.6, hilo=0.5, mastermind=1.0)[world.name]
    assert share == pytest.approx(want, abs=0.03)


def test_splits_share_nothing_that_can_be_learned():
  drawn = lambda task: {
      split: {(p.question, p.answer) for p in task.problems(split, 0, 10**6)}
      for split in task.splits}
  codes = drawn(make('safe', num_train=5_000, num_heldout=2_000))
  others = {
      split: {x for x in pairs if x[0] != x[1]}
      for split, pairs in codes.items()}
  assert len(others['train']) > 850 and len(others['test']) > 130
  ways = {
      split: {question for question, _ in pairs}
      for split, pairs in drawn(make('harbour')).items()}
  for found in (others, ways):
    for a, b in itertools.combinations(found.values(), 2):
      assert not a & b


@pytest.mark.parametrize('kind', WORLDS)
def test_without_settings_a_world_judges_and_has_no_problems(kind):
  world = tasks.make(kind)
  problem = next(make(kind).problems('test', 0, 1))
  right = {'harbour': None}.get(kind, problem.answer)
  assert right is None or world.verify(problem, right).is_correct
  for text in ('', 'UU', '?9', 'x', '\n', '\u3042' * 99, '1' * 99):
    world.verify(problem, text)
  with pytest.raises(config_lib.UserError, match='has no problems'):
    world.size('train')


def _play(rng, num, length):
  """Random tokens of any kind; half of the attempts have their end."""
  tokens_NxT = rng.integers(0, tokenizer().vocab_size, (num, length))
  tokens_NxT[tokens_NxT == tokenizer().eos_id] = 0  # it stands at the end only
  length_N = rng.integers(1, length + 1, num)
  tokens_NxT[np.arange(num), length_N - 1] = np.where(
      rng.random(num) < 0.7, tokenizer().eos_id,
      tokens_NxT[np.arange(num), length_N - 1])
  return tokens_NxT.astype(np.int32), length_N.astype(np.int32)


def _legal(world, problems, length):
  """Attempts of the world itself, with their end."""
  rng, rows, lengths = random.Random(0), [], []
  for problem in problems:
    attempt = rng.choice(
        world.attempts(problem.question)) if rng.random() < 0.6 else (
            world.act(problem.question, (), True, rng))
    ids = [*tokenizer().encode(attempt), tokenizer().eos_id]
    if rng.random() < 0.3:  # a mark writes nothing
      ids.insert(rng.randrange(len(ids)), 6)
    rows.append(ids[:length] + [0] * (length - len(ids)))
    lengths.append(min(len(ids), length))
  return np.array(rows, np.int32), np.array(lengths, np.int32)


@pytest.mark.parametrize('kind', ['task', 'shuffled'])
def test_the_program_says_what_the_host_says(world, kind):
  problems = list(world.problems('train', 0, 400)) * 2
  length = 9
  graph = feedback_lib.make(kind, 4, world, tokenizer(), 'free_text')
  assert isinstance(graph, feedback_lib.InGraph)
  host = feedback_lib.OnHost(
      world, graph.others,
      judge_lib.Judge(world, tokenizer(), 'free_text'), 4)
  stack = lambda told: jax.tree.map(
      lambda *x: np.stack(x), *map(told.hidden, problems))
  said_right = 0
  for tokens, lengths in (
      _play(np.random.default_rng(0), len(problems), length),
      _legal(world, problems, length)):
    got = jax.device_get(jax.jit(graph)(
        jax.tree.map(jnp.asarray, stack(graph)), tokens, lengths))
    want = host.say(stack(host), tokens, lengths)
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_array_equal(got[2], want[2])
    said = np.arange(graph.length)[None] < got[1][:, None]
    np.testing.assert_array_equal(
        np.where(said, got[0], 0), want[0][:, :graph.length] * said)
    if kind == 'task':
      for problem, row, n, reward in zip(problems, tokens, lengths, got[2]):
        is_right = row[n - 1] == tokenizer().eos_id and world.verify(
            problem, tokenizer().decode(row[:n - 1])).is_correct
        assert reward == is_right
    said_right += got[2].sum()
  assert said_right > (20 if kind == 'task' else 0)
  one = graph.hidden(problems[0])
  assert jax.tree.map(lambda x: (x.shape, x.dtype), one) == jax.tree.map(
      lambda x: (x.shape, x.dtype), graph.shapes())


def test_the_control_answers_to_something_else():
  world = make('safe')
  told = feedback_lib.make('shuffled', 4, world, tokenizer(), 'free_text')
  for problem in world.problems('train', 0, 100):
    heard = told._heard(problem)
    assert heard.id != problem.id and heard == told._heard(problem)
  assert feedback_lib.make('none', 4, world, tokenizer(), 'free_text') is None


@pytest.mark.parametrize('kind, changes, rows', [
    ('safe', dict(default_probability=0.3), (1, 1, 0.92, 0.92, 0.3, 0.34)),
    ('safe', dict(default_probability=0.45),
     (1, 0.937, 0.937, 0.544, 0.45, 0.481)),
    ('safe', dict(default_probability=0.6),
     (1, 0.954, 0.669, 0.669, 0.6, 0.623)),
    ('safe', dict(default_probability=0.8),
     (1, 0.834, 0.834, 0.834, 0.8, 0.811)),
    ('hilo', {}, (1, 0.917, 0.917, 0.75, 0.5, 0.667)),
    ('mastermind', dict(num_attempts=4),
     (0.812, 0.812, 0.812, 0.812, 0.062, 0.25))])
def test_optima(kind, changes, rows):
  """Of weights 0, 1/4, 1/2, 1; of one attempt, and of K that nobody hears."""
  world = make(kind, **changes)
  question = next(world.problems('test', 0, 1)).question
  number = world.settings.num_attempts
  got = [
      optimum.best(world, question, number, weight).final
      for weight in (0, 0.25, 0.5, 1)]
  got += [optimum.best(world, question, 1, 0).final,
          optimum.unheard(world, question, number)]
  np.testing.assert_allclose(got, rows, atol=6e-4)


@pytest.mark.parametrize('share, detour', [(0.3, 1.0), (0.6, 0.618)])
def test_optima_of_harbours(share, detour):
  world = make('harbour', home_probability=share)
  for question, is_on, want in (
      ('220044', False, detour), ('221133', True, 1.0)):
    assert harbour.is_on_the_way(question) == is_on
    assert world.difficulty(question) == (not is_on)
    best = functools.partial(optimum.best, world, question)
    assert best(2, 0).final == pytest.approx(1.0)
    assert best(2, 1).final == pytest.approx(want, abs=6e-4)
    assert best(1, 0).final == pytest.approx(share)


def test_readers_of_harbour_look_more_often_on_the_way():
  world = make('harbour', num_attempts=2, num_train=3_000)
  looked = {0: [], 1: []}  # by difficulty
  for problem in world.problems('train', 0, 3_000):
    first = world.teacher.search(problem, 'reader', 0).nodes[1]
    looked[problem.data['difficulty']].append(not first.state.endswith('.'))
  # A quarter of the ways to any cell, and to home, happen to pass it too.
  assert 0.5 < np.mean(looked[0]) < 0.65
  assert 0.25 < np.mean(looked[1]) < 0.35


SMALL = {
    'safe': safe.Safe(safe.Settings(2, 9, 9, 2, 2, 0.45)),
    'hilo': hilo.Hilo(hilo.Settings(3, 9, 9, 3, 0.4)),
    'mastermind': mastermind.Mastermind(mastermind.Settings(3, 9, 9, 2, 1))}


def _policies(attempts, said, left):
  """All that can be done: an attempt, then a policy for all that is said."""
  if not left:
    yield None
    return
  behind = list(_policies(attempts, said, left - 1))
  for attempt in attempts:
    for chosen in itertools.product(behind, repeat=len(said)):
      yield attempt, dict(zip(said, chosen))


@pytest.mark.parametrize('weight', [0.0, 0.3, 1.0])
@pytest.mark.parametrize('kind', SMALL)
def test_no_policy_of_all_is_better(kind, weight):
  world = SMALL[kind]
  question = dict(safe='ab', hilo='3', mastermind='12')[kind]
  prior = world.prior(question)
  attempts = world.attempts(question)
  said = sorted({
      world.say(question, h, a)[0] for h in prior for a in attempts})
  number = 2
  most = (-1.0, -1.0)
  for policy in _policies(attempts, said, number):
    value = final = 0.0
    for hidden, probability in prior.items():
      here = policy
      for k in range(number):
        heard, is_right = world.say(question, hidden, here[0])
        is_last = k == number - 1
        value += probability * is_right * (1.0 if is_last else weight)
        final += probability * is_right * is_last
        here = here[1][heard]
    most = max(most, (round(value, 9), final))
  np.testing.assert_allclose(
      optimum.best(world, question, number, weight), most, atol=1e-9)


def test_readers_use_what_they_have_read(world):
  right = []
  for i, problem in enumerate(world.problems('train', 0, 400)):
    record = world.teacher.search(problem, 'reader', i)
    assert record == world.teacher.search(problem, 'reader', i)
    first, *nodes = record.nodes
    assert first.parent == -1 and len(nodes) == world.settings.num_attempts
    heard = []
    for node in nodes:
      said, is_right = world.say(
          problem.question, problem.answer, node.step)
      assert is_right == node.is_correct == world.verify(
          problem, node.step).is_correct
      heard.append((node.step, node.state))
    assert [s for _, s in heard[:-1]] == [
        world.say(problem.question, problem.answer, a)[0]
        for a, _ in heard[:-1]] and heard[-1][1] == ''
    # The last attempt fits to all that was said.
    known = world.beliefs(problem.question, heard[:-1])
    if len(known) == 1:
      assert nodes[-1].is_correct
    right.append(nodes[-1].is_correct)
  single = optimum.best(
      world, problem.question, 1, 0).final
  assert np.mean(right) > single + 0.02
  with pytest.raises(ValueError, match="strategy: got 'dfs'; must be one of"):
    world.teacher.search(problem, 'dfs', 0)


def test_the_arm_of_episodes_needs_feedback():
  assert arms.make('episodes', make('safe')).is_played
  with pytest.raises(config_lib.ConfigError, match='gives no feedback'):
    arms.make('episodes', tasks.make('countdown'))


def test_symbols_must_be_tokens():
  world = make('safe')
  words = functools.partial(
      feedback_lib.make, 'task', 4, world, style='free_text')
  with pytest.raises(config_lib.ConfigError, match="the token 'ab' is several"):
    words(tokenizer=sentencepiece.train(
        ['x'], 64, 9, (*'abcdefgh?+-', 'ab')))
  with pytest.raises(config_lib.ConfigError, match="'a' is 2 tokens"):
    words(tokenizer=_Double())
  with pytest.raises(config_lib.ConfigError, match='this task gives none'):
    feedback_lib.make(
        'task', 4, tasks.make('countdown'), tokenizer(), 'free_text')


class _Double:
  """Writes everything twice."""

  def encode(self, text):
    return tokenizer().encode(text) * 2
