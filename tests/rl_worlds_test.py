# SPDX-License-Identifier: Apache-2.0
"""Worlds played and learned from: one game in training and in reports."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import worlds as worlds_config
from data_pipelines import arms
from data_pipelines import examples
from meta_cot import sharding
from meta_cot.rl import questions as questions_lib
from meta_cot.rl import setup as setup_lib
from meta_cot.rl import update as update_lib
from meta_cot.solvers import revising
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import rl
from tests import small_rl
from tests import small_worlds

_MODEL = dict(
    vocab_size=64, num_layers=1, embed_dim=16, num_heads=4, num_kv_heads=4,
    head_dim=4, mlp_dim=32)
_RL = dict(
    num_questions=8, num_samples=4, num_slots=16, num_eval_samples=2,
    objectives=('erl2',))


def _experiment(kind='hilo', **changes):
  config = worlds_config.get_config(kind)
  config.model.update(_MODEL)
  config.task.update(dict(num_train=64, num_heldout=20))
  small_rl.change(config.rl, **_RL | changes)
  return experiment_lib.parse(config)


# What a model that nobody trained is made to write, besides ends.
_WRITTEN = dict(safe='abc?1', harbour='UDLR', hilo='147', mastermind='ab')


def _parameters(model, kind):
  """Random, but for rows of the embedding so long that they are drawn."""
  params = small_rl.parameters(model)
  written = small_worlds.tokenizer().encode(_WRITTEN[kind])
  scale_V = np.ones(model.vocab_size, np.float32)
  scale_V[[*written, small_worlds.tokenizer().eos_id]] = 20.0
  return params | dict(embedder=jax.tree.map(
      lambda x: x * scale_V[:, None], params['embedder']))


@functools.cache
def _setup(kind='hilo', axes=(1, 1, 1), **changes):
  experiment = _experiment(kind, **changes)
  context = small_rl.context_of(experiment, axes)
  problems = {
      split: tuple(context.task.problems(split, 0, 64))
      for split in ('train', 'validation')}
  model, style = context.shared.model, context.shared.style
  programs = rl.make_programs(
      context, small_rl.of(experiment), base.Planned(
          model, style, small_worlds.tokenizer(), is_there=True),
      [*problems['train'], *problems['validation']])
  return setup_lib.Setup(
      programs, problems['train'], problems['validation'], jax.device_put(
          _parameters(model, kind), jax.tree.map(
              lambda x: x.sharding, programs.start)), 0)


def _collect(setup):
  """An iteration's experience, and what was played; on the host."""
  learner, played = setup.learner('erl2', 0), []
  player = learner.player
  real = player.play

  def play(*arguments):
    played.append(real(*arguments))
    return played[-1]

  player.play = play
  config = small_rl.of(_experiment()).questions
  memory = questions_lib.Memory(questions_lib.Questions(
      len(setup.train), seed=0, min_success=config.min_success,
      max_success=config.max_success, rest=0), 0.0)
  with sharding.use_mesh(setup.programs.mesh):
    experience = learner.collect(setup.start, memory, 0)
  return experience, jax.device_get(played[0])


def _said(rollouts, rules, n, e):
  """What was forced behind an episode."""
  row = rollouts.tokens[n]
  behind = int(rollouts.starts[n, e + 1])
  return row[int(rollouts.ends[n, e]):behind]


def _check_feedback(setup, rollouts, problems, num_samples, least=1):
  """All that was said is what the task says on the host."""
  task, tokenizer = setup.programs.task, setup.programs.tokenizer
  rules, seen = setup.programs.rules, set()
  for n in range(len(rollouts.starts)):
    problem = problems[n // num_samples]
    for e in range(rules.num_episodes - 1):
      tokens = rollouts.tokens[n][rollouts.starts[n, e]:rollouts.ends[n, e]]
      answer = tokenizer.decode(tokens[:-1]) if (
          rollouts.is_finished[n, e]) else ''
      said = task.feedback(
          problem, answer if answer.strip() else '', None)
      got = _said(rollouts, rules, n, e)
      assert got.tolist() == tokenizer.encode(said)
      seen.add(said)
  assert len(seen) >= least


@pytest.mark.parametrize('kind', [
    'hilo', pytest.param('harbour', marks=pytest.mark.slow)])
def test_what_is_said_is_read_and_not_trained(kind):
  setup = _setup(kind, temperature=10.0)
  experience, rollouts = _collect(setup)
  problems = [setup.train[q] for q in experience.questions]
  _check_feedback(
      setup, rollouts, problems, 4, least=2 if kind == 'hilo' else 1)
  batch = jax.device_get(experience.batch)
  drawn = np.maximum(rollouts.ends - rollouts.starts, 0).sum()
  assert batch.is_trained.sum() == batch.rows.is_sampled.sum() == drawn
  assert rollouts.lengths.sum() == drawn + (
      setup.programs.rules.feedback.length * 32 * (
          setup.programs.rules.num_episodes - 1))


def test_feedback_tokens_have_no_gradient():
  setup = _setup('hilo', temperature=10.0)
  batch = jax.device_get(_collect(setup)[0].batch)
  settings = setup.programs.settings
  gradient = jax.jit(jax.grad(lambda params, batch: update_lib.loss(
      setup.programs.model, settings, settings.objective('erl2'), params,
      batch, jnp.arange(32), jnp.float32(0), num_rows=32)[0]))
  advantages = np.random.default_rng(0).standard_normal(
      batch.advantages.shape).astype(np.float32)
  batch = dataclasses.replace(
      batch, advantages=np.where(batch.is_trained, advantages, 0.0),
      weights=batch.is_trained.astype(np.float32))
  plain = gradient(setup.start, batch)
  assert float(optax.tree.norm(plain)) > 1e-3
  other = gradient(setup.start, dataclasses.replace(
      batch, advantages=np.where(batch.is_trained, advantages, 1e3)))
  jax.tree.map(np.testing.assert_array_equal, plain, other)


def test_devices_slots_and_other_questions_change_no_token():
  make = functools.partial(_setup, temperature=10.0)
  one, rollouts = _collect(make())
  for setup in (make(axes=(8, 1, 1)), make(num_slots=7)):
    many, other = _collect(setup)
    assert many.questions == one.questions
    for name in ('tokens', 'episode', 'lengths', 'starts', 'ends'):
      np.testing.assert_array_equal(
          getattr(rollouts, name), getattr(other, name))
  setup = make()
  player = setup.player(setup.programs, 32)
  ask = functools.partial(player.ask, ids=(5, 6))
  play = lambda *problems: player.fetch(player(
      setup.start, ask(problems), jax.random.key(2))).tokens[32:64]
  with sharding.use_mesh(setup.programs.mesh):
    a, b, c = (
        next(p for p in setup.train if p.answer == x) for x in '417')
    np.testing.assert_array_equal(play(a, b), play(c, b))


def test_reports_play_the_same_game():
  setup = _setup('hilo', temperature=10.0)
  programs, settings = setup.programs, setup.programs.settings
  evaluate = setup_lib.Evaluation(setup, programs)
  mine = revising.Settings(**{
      name: getattr(settings.episodes, name) for name in (
          'num_episodes', 'episode_length', 'max_tokens', 'window', 'reset',
          'feedback', 'feedback_length', 'give_up', 'temperature', 'top_k',
          'top_p')}, num_questions=8, num_samples=2, num_slots=16)
  assert revising.rules(
      mine, programs.tokenizer, programs.task, programs.style) == (
          programs.rules)
  player = setup.player(programs, 2)
  problems = setup.validation[:8]
  with sharding.use_mesh(programs.mesh):
    asked = player.ask(problems, list(range(8)))
    rollouts = player.fetch(player(
        setup.start, asked, setup.evaluation_rng))
    judged = evaluate.play(setup.start)
  _check_feedback(setup, rollouts, problems, 2)
  np.testing.assert_array_equal(
      judged.num_tokens[:16], np.maximum(rollouts.ends - rollouts.starts, 0))


@pytest.mark.parametrize('changes', [
    dict(feedback='shuffled'), dict(feedback='none'), dict(window=0)])
def test_controls_are_played(changes):
  setup = _setup('hilo', temperature=10.0, **changes)
  _, rollouts = _collect(setup)
  drawn = np.maximum(rollouts.ends - rollouts.starts, 0).sum()
  said = rollouts.lengths.sum() - drawn
  assert said == (64 if changes == dict(feedback='shuffled') else 0)


@pytest.mark.parametrize('kind', small_worlds.WORLDS)
def test_demonstrations_are_written_as_rollouts_are(kind):
  """The same tokens, in the same order: question, attempt, end, what is said.
  """
  setup = _setup(kind)
  task, tokenizer = setup.programs.task, setup.programs.tokenizer
  rules = setup.programs.rules
  data = experiment_lib.parse(
      worlds_config.get_config(kind)).groups['sft'].settings.data
  write = examples.Texts(
      arms.make('episodes', task), data, tokenizer, 'free_text')
  player = setup.player(setup.programs, 1)
  for i, problem in enumerate(setup.train[:20]):
    record = task.teacher.search(problem, 'reader', i)
    example = write(record, np.random.default_rng(0))
    asked = player.ask([problem], [0])
    prompt = np.asarray(asked.prompts)[0, :int(asked.lengths[0])].tolist()
    tokens = [*example['tokens'].tolist(), int(example['targets'][-1])]
    want, trained = list(prompt), [0] * len(prompt)
    for node in record.nodes[1:]:
      attempt = [*tokenizer.encode(node.step), tokenizer.eos_id]
      want += attempt
      trained += [1] * len(attempt)
      assert len(attempt) <= rules.episode_length
      if node is not record.nodes[-1]:
        text = np.zeros((1, rules.episode_length), np.int32)
        text[0, :len(attempt)] = attempt
        hidden = jax.tree.map(
            lambda x: jnp.asarray(x)[None], rules.feedback.hidden(problem))
        said, number, _ = rules.feedback(
            hidden, jnp.asarray(text), jnp.asarray([len(attempt)]))
        want += said[0, :int(number[0])].tolist()
        trained += [0] * int(number[0])
    assert tokens == want
    assert example['weights'].tolist() == trained[1:]
