# SPDX-License-Identifier: Apache-2.0
"""Every program of reinforcement learning, compiled for TPUs not here."""

import functools

import jax
import jax.numpy as jnp
import libtpu
import numpy as np
import pytest

from configs import erl2 as erl2_config
from meta_cot import sharding
from meta_cot.compile import __main__ as compile_lib
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import topology as topology_lib
from meta_cot.model import transformer
from meta_cot.rl import credit
from meta_cot.rollouts import player as player_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import revising
from meta_cot.stages import experiment as experiment_lib
from meta_cot.training import optimizer
from meta_cot.training import policy as policy_lib
from meta_cot.training import state as state_lib
from tests import small_rl

assert libtpu  # the compiler; without it nothing here can be tested
PARTS = ('rollout', 'prepare', 'keep', 'update', 'evaluate')
# Settings that need programs of their own.
WAYS = {
    'plain': {},
    'window': dict(window=1, reset='S', max_tokens=14),
    'vineppo': dict(advantage='vineppo', give_up='x'),
    'gae': dict(advantage='gae', value_clip=0.2),
    'reward': dict(kl_in='reward', kl_estimator='k1', num_epochs=2),
    'pieces': dict(
        num_minibatches=2, num_accumulation=2, num_loss_chunks=4, top_p=0.9),
    'search': dict(exploration='beam', reset='S', give_up='x'),
}


def _config(objective='erl2', *, data=-1, model=1, loop='unroll', **changes):
  """The smallest model; everything else as it is run."""
  config = erl2_config.get_config('tiny')
  config.model.update(dict(
      num_layers=1 if loop == 'unroll' else 2, embed_dim=64, num_heads=4,
      num_kv_heads=4, head_dim=64, mlp_dim=64))
  config.model.execution.layer_loop = loop
  config.mesh.update(dict(data=data, model=model))
  config.stages = ('rl', 'episodes')
  small_rl.change(config.rl, **dict(
      objectives=(objective,), num_questions=16, num_samples=4, num_slots=16,
      num_episodes=3, episode_length=6, num_eval_samples=3, num_rollouts=2)
      | changes)
  config.rl.search.update(dict(
      outcome='value', branching=3, beam_width=2, num_expansions=4,
      num_simulations=4, step_length=6))
  _play_the_same(config)
  return config


def _play_the_same(config):
  """Makes stage `episodes` play what stage `rl` does."""
  report, played = config.episodes, dict(config.rl.episodes)
  report.exploration = played.pop('exploration')
  report.search = config.rl.search
  report.episodes.update(dict(
      played, num_questions=config.rl.questions.num_questions,
      num_slots=config.rl.questions.num_slots,
      num_samples=config.rl.num_eval_samples))


def _experiment(*args, **kwargs):
  return programs_lib.for_accelerator(
      experiment_lib.parse(_config(*args, **kwargs)))


def _programs(experiment, devices=1):
  """All of them, for CPUs."""
  return experiment_lib.programs(experiment, sharding.make_mesh(
      experiment.shared.mesh, jax.devices()[:devices]))


def _measure(experiment, topology, name):
  found = topology_lib.find(topology)
  return programs_lib.compile_program(experiment, found, name)


def _compile(experiment, topology, name):
  result = _measure(experiment, topology, name)
  assert result.fits
  assert 0 < result.utilisation(result.times.overlapped) <= 1
  return result


def _check_play(experiment, topology, name):
  """What must hold of all programs that play."""
  result = _compile(experiment, topology, name)
  # New prompts come into the slots by turns, of which most steps need one.
  assert result.cost.unknown_loops <= 1
  # No part of the vocabulary or of a cache goes anywhere.
  assert list(result.cost.collectives) == ['all-reduce']
  reduced = result.cost.collectives['all-reduce']
  if experiment.shared.mesh.model == 1:
    # Whether any slot goes on, speaks or is new, and how many are live: flags
    # of 4 bytes, at times several at once.
    assert reduced.count >= result.tokens / (
        small_rl.of(experiment).questions.num_slots)
    assert reduced.num_bytes <= 8 * reduced.count
  return result


def _check_update(experiment, topology, name):
  """What must hold of all updates."""
  result = _compile(experiment, topology, name)
  # Weights and moments are updated in place; metrics come out beside them.
  assert 0 < result.memory.outputs - result.memory.aliased < 8192
  assert not result.cost.unknown_loops
  if experiment.shared.mesh.model == 1:
    # Gradients are summed over devices; no row leaves its own.
    (kind, reduced), = result.cost.collectives.items()
    assert kind == 'all-reduce'
    pieces = small_rl.of(experiment).updates.num_accumulation
    assert reduced.num_bytes < pieces * (
        4 * 1.1 * experiment.shared.model.num_params())
  return result


def _check_prepare(experiment, topology, name):
  """What must hold of all batches made ready."""
  result = _compile(experiment, topology, name)
  assert not result.cost.unknown_loops
  config = small_rl.of(experiment)
  if experiment.shared.mesh.model == 1:
    # What an episode, or a step of one, is worth, of all trajectories at most.
    num = config.questions.num_trajectories * config.episodes.num_episodes
    if config.credit.advantage == 'vineppo':
      num *= config.credit.num_steps
    for traffic in result.cost.collectives.values():
      assert traffic.num_bytes <= traffic.count * 4 * num
  return result


def _check_contexts(experiment, topology, name):
  """Tokens are looked up where they are."""
  result = _measure(experiment, topology, name)
  assert result.fits and not result.cost.unknown_loops
  assert not result.cost.collectives
  return result


def _check_explore(experiment, topology, name):
  """What must hold of all searches that explore."""
  result = _compile(experiment, topology, name)
  # A tree policy goes down as deep as its trees are; all else is bounded.
  assert (result.cost.unknown_loops > 0) == (
      small_rl.of(experiment).episodes.exploration == 'mcts')
  # No part of a cache, of a tree or of a context goes anywhere.
  assert list(result.cost.collectives) == ['all-reduce']
  reduced = result.cost.collectives['all-reduce']
  if experiment.shared.mesh.model == 1:
    # Flags: whether any step goes on, whether any search does.
    assert reduced.count >= small_rl.of(experiment).search.step_length
    assert reduced.num_bytes <= 8 * reduced.count
  return result


CHECKS = {
    'explore': _check_explore, 'prepare': _check_prepare,
    'keep': _compile, 'update': _check_update, 'contexts': _check_contexts}


def _check(experiment, topology, name):
  part = name.rpartition('/')[2]
  return CHECKS.get(part, _check_play)(experiment, topology, name)


# Questions over all devices, or a model over two as well.
@pytest.mark.parametrize('name, topology, settings', [
    ('rl/erl2/rollout', 'v5e:2x4', dict(data=4, model=2)),
    ('rl/erl2/rollout', 'v6e:2x2', WAYS['window']),
    ('rl/erl2/prepare', 'v5p:2x2x1', WAYS['reward']),
    ('rl/erl2/keep', 'v5e:2x2', WAYS['pieces']),
    ('rl/erl2/update', 'v6e:2x2', WAYS['pieces']),
    ('rl/erl2/contexts', 'v5e:2x2', WAYS['vineppo']),
    ('rl/erl2/continue', 'v5p:2x2x1', WAYS['vineppo']),
    ('rl/erl2/explore', 'v6e:2x2', WAYS['search']),
    ('rl/erl2/explore', 'v5e:2x4', dict(exploration='mcts', data=4, model=2)),
    ('rl/erl2/evaluate', 'v5p:2x2x1', WAYS['search']),
    ('episodes/revisions', 'v6e:2x2', WAYS['search'])])
def test_programs(name, topology, settings):
  _check(_experiment(**settings), topology, name)


@pytest.mark.slow
@pytest.mark.parametrize('topology, data, model', [
    ('v5e:2x4', 8, 1), ('v5e:2x4', 4, 2), ('v5p:2x2x2', 8, 1),
    ('v5p:2x2x2', 4, 2), ('v6e:2x4', 8, 1), ('v6e:2x4', 4, 2)])
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('objective', ['erl2', 'single', 'score'])
def test_everything_everywhere(objective, way, topology, data, model):
  experiment = _experiment(
      objective, data=data, model=model, loop='scan', **WAYS[way])
  for name in _programs(experiment, 8):
    if not name.endswith(('/prefill', '/generate')):
      _check(experiment, topology, name)


@pytest.mark.parametrize('data, model', [
    pytest.param(8, 1, marks=pytest.mark.slow), (4, 2)])
def test_the_programs_run_one_after_the_other(data, model):
  """Each takes what the others leave, where they leave it."""
  experiment = _experiment(
      data=data, model=model, num_samples=2, num_minibatches=2)
  mesh = sharding.make_mesh(experiment.shared.mesh)
  random = np.random.default_rng(0)
  builders, settings = (
      experiment_lib.programs(experiment, mesh), small_rl.of(experiment))
  with sharding.use_mesh(mesh):
    compiled = {
        part: builders[f'rl/erl2/{part}']().lower().compile()
        for part in ('rollout', 'prepare', 'update')}
    state = state_lib.jit_create(
        functools.partial(transformer.init, experiment.shared.model),
        optimizer.make(settings.optimizer, settings.num_updates),
        mesh)(jax.random.key(0))
    reference = jax.tree.map(lambda x: x.copy(), state.params)
    whole = lambda x: jax.device_put(x, sharding.replicated(mesh))
    prompts, lengths, ids, verdicts = sharding.split_batch((
        random.integers(4, 60, (16, 16), np.int32), np.full(16, 12, np.int32),
        np.arange(16, dtype=np.int32), credit.Verdicts(
            rewards=random.integers(0, 2, (32, 3)).astype(np.float32),
            is_taken=np.ones((32, 3), bool), is_judged=np.ones(32, bool),
            tokens_before=np.zeros((32, 3), np.int32),
            discounts=np.ones(32, np.float32))), mesh)
    rollouts = compiled['rollout'](
        state.params, prompts, lengths, ids, whole(jax.random.key(1)))
    batch, is_flat_N = compiled['prepare'](
        state.params, reference, prompts, lengths, rollouts, verdicts,
        whole(jnp.float32(0)), whole(jnp.float32(0.1)), None)
    for minibatch in range(2):
      state, metrics = compiled['update'](
          state, batch, whole(jnp.int32(minibatch)), whole(jnp.float32(0.1)),
          {})
  # Two trajectories a slot, three episodes of 6 tokens each at most.
  assert 18 < int(rollouts.num_steps) <= 36
  assert int(rollouts.num_live) == int(jnp.sum(rollouts.lengths))
  assert not np.all(is_flat_N)
  assert int(state.step) == 2
  assert float(metrics['grad_norm']) > 0
  assert np.isfinite(float(metrics['loss']))


def test_caches_stay_where_they_are():
  experiment = _experiment(
      data=2, model=2, loop='scan', num_questions=512, num_slots=1024,
      episode_length=32)
  result = _check_play(experiment, 'v5p:2x2x1', 'rl/erl2/rollout')
  # Of every slot keys and values of 2 layers, 2 of 4 heads, 64 wide in
  # bfloat16, for 3 episodes and a prompt: one ring, and no second one.
  slot = 2 * 2 * 2 * 64 * 2 * (3 * 32 + 16)
  assert 512 * slot < result.memory.temporaries < 1.6 * 512 * slot


def test_names():
  of = lambda config: list(_programs(experiment_lib.parse(config)))
  config = erl2_config.get_config()
  names = of(config)
  report = ['prefill', 'generate', 'revisions']
  expected = [
      *(f'rl/{objective}/{part}' for objective in ('erl2', 'rl2', 'single')
        for part in PARTS), *(f'episodes/{part}' for part in report)]
  assert names[-len(expected):] == expected
  config.stages = config.stages[:-2]
  assert of(config) == names[:-len(expected)]
  config = _config('single', advantage='vineppo')
  config.rl.credit.num_steps = 1
  config.stages = ('rl',)
  assert of(config) == [f'rl/single/{part}' for part in (*PARTS, 'values')]
  config.rl.objectives = ('score',)
  assert of(config)[-3:] == [
      f'rl/score/{part}' for part in ('values', 'contexts', 'continue')]
  config = _config('erl2', exploration='mcts')
  config.rl.objectives = ('erl2', 'single')
  assert of(config) == [
      *(f'rl/erl2/{part}' for part in ('explore', *PARTS)),
      *(f'rl/single/{part}' for part in PARTS),
      *(f'episodes/{part}'
        for part in ('prefill', 'generate', 'explore', 'revisions'))]


def test_a_search_makes_prompts_wider():
  experiment = _experiment(**WAYS['search'])
  builders = _programs(experiment)
  names = ('rl/erl2/rollout', 'episodes/revisions', 'rl/single/rollout')
  config = _config(**WAYS['search'])
  config.rl.objectives = ('single',)
  builders |= _programs(experiment_lib.parse(config))
  widths = [builders[name]().arguments[1].shape[1] for name in names]
  # Two attempts of two steps of 6 tokens, each with its reset.
  assert widths == [16 + 26, 16 + 26, 16]
  for name in ('rl/erl2/explore', 'episodes/explore'):
    explore = builders[name]()
    explored = jax.eval_shape(explore.jitted, *explore.arguments)
    assert explored.prompts.shape == (16, 16 + 26)
    # Children of the root, then those of a beam of 2.
    assert explore.tokens == 16 * 6 * (3 + 2 * 3)


class _Played(Exception):
  """Instead of a rollout."""


def test_the_report_plays_what_is_listed(monkeypatch):
  """What its solver calls is, word for word, the program of that name."""
  experiment = experiment_lib.parse(_config())
  context = small_rl.context_of(experiment, (2, 1, 1))
  settings = experiment.groups['episodes'].settings
  planned = context.planned('sft/revisions')
  with sharding.use_mesh(context.mesh):
    listed = experiment_lib.programs(
        experiment, context.mesh)['episodes/revisions']().lower().as_text()
  real, seen = player_lib.jit_rollout, []

  def jit_rollout(*args, **kwargs):
    def play(*arguments):
      seen.append(real(*args, **kwargs).lower(*arguments).as_text())
      raise _Played
    return play

  monkeypatch.setattr(player_lib, 'jit_rollout', jit_rollout)
  params = jax.tree.map(
      lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding),
      policy_lib.abstract(planned.model, context.mesh))
  solver = revising.Reviser(settings.episodes, context.task, context.mesh)
  policy = solvers_base.Policy(
      'start', planned.model, params, planned.tokenizer, planned.style)
  with sharding.use_mesh(context.mesh), pytest.raises(_Played):
    solver(policy, context.first_problems[:40], jax.random.key(0))
  assert seen == [listed]


def test_every_variant_has_its_programs():
  for variant in erl2_config.VARIANTS:
    config = erl2_config.get_config(variant)
    config.rl.objectives = config.rl.objectives[:1]
    config.stages = ('rl', 'episodes')
    experiment = programs_lib.for_accelerator(experiment_lib.parse(config))
    mesh = sharding.make_mesh(experiment.shared.mesh, jax.devices()[:1])
    with sharding.use_mesh(mesh):
      for name, build in experiment_lib.programs(experiment, mesh).items():
        program = build()
        assert name.endswith(f'/{program.name}')
        assert program.tokens > 0 and (program.model_flops > 0 or (
            config.rl.loss.kl_in == 'none' and 'prepare' in name))


@pytest.mark.parametrize('flags, message', [
    ('--programs=rl/erl2/explore',
     "--programs: got 'rl/erl2/explore'; did you mean 'rl/erl2/"),
    ('--config.rl.episodes.exploration=beam '
     '--config.rl.search.outcome=verifier',
     "config.rl.search.outcome: got 'verifier' with exploration 'beam'"),
    ('--config.episodes.exploration=beam',
     "config.episodes.search.outcome: got 'verifier' with exploration 'beam'"),
    ('--config.episodes.exploration=dvts '
     '--config.episodes.search.outcome=value '
     '--config.episodes.search.beam_width=9',
     'config.episodes.search: dvts: num_groups: got 9; must be at most '),
    ("--config.stages=('episodes',) --config.episodes.episodes.give_up=no",
     "config.episodes.episodes.give_up: 'no' is 2 tokens; must be one token"),
    ("--config.stages=('episodes',) "
     '--config.episodes.episodes.episode_length=169',
     'config.episodes.episodes.episode_length: got 169; 507 tokens of a '),
    ('--config.rl.start=revision',
     "config.rl.start: got 'revision'; 'revision' is no stage"),
    ('--config.rl.credit.advantage=gae --config.model.value_head=none',
     "config.rl.credit.advantage: got 'gae'; the model has no value head"),
    ('--config.rl.episodes.episode_length=169',
     'config.rl.episodes.episode_length: got 169; 507 tokens of a trajectory '
     'after prompts of 16 must be at most config.model.max_length, 512'),
    ('--config.rl.episodes.episode_length=90 '
     '--config.rl.credit.advantage=vineppo',
     'config.rl.episodes.episode_length: got 90; twice 270 tokens of a '),
    ('--config.rl.credit.advantage=vineppo --config.rl.credit.step_end=no',
     "config.rl.credit.step_end: got 'no'; must be in a token of the "),
    ('--config.rl.episodes.give_up=no',
     "config.rl.episodes.give_up: 'no' is 2 tokens; must be one token"),
    ('--programs=erl2/update --config.rl.questions.num_questions=30',
     'config.rl.questions.num_questions: got 30; must be a multiple of 4'),
    ('--programs=erl2/update --config.rl.updates.num_accumulation=3',
     'config.rl.updates.num_accumulation: got 3; 256 rows of an iteration must '
     'be divisible by 12 = 1 minibatches x 3 accumulation x 4')])
def test_errors(flags, message):
  with pytest.raises(config_lib.ConfigError) as e:
    compile_lib.main([
        '--config=configs/erl2.py:tiny', '--topology=v5e:2x2', *flags.split()])
  assert str(e.value).startswith(message) and '\n' not in str(e.value)
