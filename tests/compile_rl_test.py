# SPDX-License-Identifier: Apache-2.0
"""Every program of reinforcement learning, compiled for TPUs not here."""

import functools

import jax
import jax.numpy as jnp
import libtpu
import numpy as np
import pytest

from configs import countdown
from configs import erl2 as erl2_config
from meta_cot import sharding
from meta_cot.compile import __main__ as compile_lib
from meta_cot.model import transformer
from meta_cot.rl import credit
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import programs
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib
from tests import small_rl

assert libtpu  # the compiler; without it nothing here can be tested
TINY = '--config=configs/erl2.py:tiny'
PARTS = ('rollout', 'prepare', 'update', 'evaluate')
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


def _config(
    objective='erl2', *, data=-1, model=1, loop='unroll', **changes):
  """The smallest model; everything else as it is run."""
  config = erl2_config.get_config('tiny')
  config.model.update(dict(
      num_layers=1 if loop == 'unroll' else 2, embed_dim=64, num_heads=4,
      num_kv_heads=4, head_dim=64, mlp_dim=64))
  config.model.execution.layer_loop = loop
  config.mesh.update(dict(data=data, model=model))
  config.train.batch_size = 16
  config.data.num_streams = 4
  small_rl.change(config.rl, **dict(
      objectives=(objective,), num_questions=16, num_samples=4, num_slots=16,
      num_episodes=3, episode_length=6, num_eval_samples=3, num_rollouts=2)
      | changes)
  config.search.update(dict(
      outcome='value', branching=3, beam_width=2, num_expansions=4,
      num_simulations=4, step_length=6))
  return config


def _experiment(*args, **kwargs):
  return programs.for_accelerator(
      experiment_lib.parse(_config(*args, **kwargs)))


def _compile(experiment, topology, name):
  result = compile_lib.compile_program(
      experiment, compile_lib.find_topology(topology), name)
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
  reduced, config = result.cost.collectives['all-reduce'], experiment.rl
  if experiment.mesh.model == 1:
    # Whether any slot goes on, speaks or is new, and how many are live: flags
    # of 4 bytes, at times several at once.
    assert reduced.count >= result.tokens / config.questions.num_slots
    assert reduced.num_bytes <= 8 * reduced.count
  return result


def _check_update(experiment, topology, name):
  """What must hold of all updates."""
  result = _compile(experiment, topology, name)
  # Weights and moments are updated in place; metrics come out beside them.
  assert 0 < result.memory.outputs - result.memory.aliased < 8192
  assert not result.cost.unknown_loops
  if experiment.mesh.model == 1:
    # Gradients are summed over devices; no row leaves its own.
    (kind, reduced), = result.cost.collectives.items()
    assert kind == 'all-reduce'
    assert reduced.num_bytes < experiment.rl.updates.num_accumulation * (
        4 * 1.1 * experiment.model.num_params())
  return result


def _check_prepare(experiment, topology, name):
  """What must hold of all batches made ready."""
  result = _compile(experiment, topology, name)
  assert not result.cost.unknown_loops
  config = experiment.rl
  if experiment.mesh.model == 1:
    # What an episode, or a step of one, is worth, of all trajectories at most.
    num = config.questions.num_trajectories * config.episodes.num_episodes
    if config.credit.advantage == 'vineppo':
      num *= config.credit.num_steps
    for traffic in result.cost.collectives.values():
      assert traffic.num_bytes <= traffic.count * 4 * num
  return result


def _check_contexts(experiment, topology, name):
  """Tokens are looked up where they are."""
  result = compile_lib.compile_program(
      experiment, compile_lib.find_topology(topology), name)
  assert result.fits and not result.cost.unknown_loops
  assert not result.cost.collectives
  return result


def _check_explore(experiment, topology, name):
  """What must hold of all searches that explore."""
  result = _compile(experiment, topology, name)
  # A tree policy goes down as deep as its trees are; all else is bounded.
  assert (result.cost.unknown_loops > 0) == (
      experiment.rl.episodes.exploration == 'mcts')
  # No part of a cache, of a tree or of a context goes anywhere.
  assert list(result.cost.collectives) == ['all-reduce']
  reduced = result.cost.collectives['all-reduce']
  if experiment.mesh.model == 1:
    # Flags: whether any step goes on, whether any search does.
    assert reduced.count >= experiment.search.step_length
    assert reduced.num_bytes <= 8 * reduced.count
  return result


CHECKS = {
    'explore': _check_explore, 'prepare': _check_prepare,
    'update': _check_update, 'contexts': _check_contexts}


def _check(experiment, topology, name):
  part = name.rpartition('_')[2]
  return CHECKS.get(part, _check_play)(experiment, topology, name)


# Questions over all devices, or a model over two as well.
@pytest.mark.parametrize('name, topology, settings', [
    ('rollout', 'v5e:2x4', dict(data=4, model=2)),
    ('rollout', 'v6e:2x2', WAYS['window']),
    ('prepare', 'v5p:2x2x1', WAYS['reward']),
    ('update', 'v6e:2x2', WAYS['pieces']),
    ('contexts', 'v5e:2x2', WAYS['vineppo']),
    ('continue', 'v5p:2x2x1', WAYS['vineppo']),
    ('explore', 'v6e:2x2', WAYS['search']),
    ('explore', 'v5e:2x4', dict(exploration='mcts', data=4, model=2)),
    ('evaluate', 'v5p:2x2x1', WAYS['search'])])
def test_programs(name, topology, settings):
  _check(_experiment(**settings), topology, f'rl_erl2_{name}')


@pytest.mark.slow
@pytest.mark.parametrize('topology, data, model', [
    ('v5e:2x4', 8, 1), ('v5e:2x4', 4, 2), ('v5p:2x2x2', 8, 1),
    ('v5p:2x2x2', 4, 2), ('v6e:2x4', 8, 1), ('v6e:2x4', 4, 2)])
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('objective', ['erl2', 'single', 'score'])
def test_everything_everywhere(objective, way, topology, data, model):
  experiment = _experiment(
      objective, data=data, model=model, loop='scan', **WAYS[way])
  for name in programs.names(experiment):
    if name.startswith('rl_'):
      _check(experiment, topology, name)


@pytest.mark.parametrize('data, model', [
    pytest.param(8, 1, marks=pytest.mark.slow), (4, 2)])
def test_the_programs_run_one_after_the_other(data, model):
  """Each takes what the others leave, where they leave it."""
  experiment = _experiment(
      data=data, model=model, num_samples=2, num_minibatches=2)
  mesh = sharding.make_mesh(experiment.mesh)
  random = np.random.default_rng(0)
  with sharding.use_mesh(mesh):
    compiled = {
        part: programs.build(
            experiment, mesh, f'rl_erl2_{part}').lower().compile()
        for part in ('rollout', 'prepare', 'update')}
    state = state_lib.create(
        functools.partial(transformer.init, experiment.model),
        optimizer.make(experiment.rl.optimizer, experiment.rl.num_updates),
        mesh, jax.random.key(0))
    reference = jax.tree.map(lambda x: x.copy(), state.params)
    whole = lambda x: jax.device_put(x, sharding.replicated(mesh))
    prompts, lengths, ids, verdicts = sharding.split_batch((
        random.integers(4, 60, (16, 8), np.int32), np.full(16, 8, np.int32),
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
          state, batch, whole(jnp.int32(minibatch)), whole(jnp.float32(0.1)))
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
  result = _check_play(experiment, 'v5p:2x2x1', 'rl_erl2_rollout')
  # Of every slot keys and values of 2 layers, 2 of 4 heads, 64 wide in
  # bfloat16, for 3 episodes and a prompt: one ring, and no second one.
  slot = 2 * 2 * 2 * 64 * 2 * (3 * 32 + 8)
  assert 512 * slot < result.memory.temporaries < 1.5 * 512 * slot


def test_names():
  plain = experiment_lib.parse(countdown.get_config('tiny'))
  assert programs.names(plain) == tuple(programs.PROGRAMS)
  names = programs.names(experiment_lib.parse(erl2_config.get_config()))
  assert names[:len(programs.PROGRAMS)] == tuple(programs.PROGRAMS)
  assert names[len(programs.PROGRAMS):] == ('rl_start', 'rl_samples', *(
      f'rl_{objective}_{part}' for objective in ('erl2', 'rl2', 'single')
      for part in PARTS))
  config = _config('single', advantage='vineppo')
  config.rl.credit.num_steps = 1
  assert programs.names(experiment_lib.parse(config))[-1] == 'rl_single_values'
  config.rl.objectives = ('score',)
  assert programs.names(experiment_lib.parse(config))[-3:] == (
      'rl_score_values', 'rl_score_contexts', 'rl_score_continue')
  config = _config('erl2', exploration='mcts')
  config.rl.objectives = ('erl2', 'single')
  assert programs.names(experiment_lib.parse(config))[-9:] == (
      *(f'rl_erl2_{part}' for part in ('explore', *PARTS)),
      *(f'rl_single_{part}' for part in PARTS))


def test_a_search_makes_prompts_wider():
  experiment = _experiment(**WAYS['search'])
  mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:1])
  with sharding.use_mesh(mesh):
    made = {
        name: programs.build(experiment, mesh, name)
        for name in ('rl_erl2_explore', 'rl_erl2_rollout', 'rl_start',
                     'rl_samples', 'rl_single_rollout')}
  widths = {
      name: program.arguments[1].shape[1] for name, program in made.items()
      if name != 'rl_erl2_explore'}
  # Two attempts of two steps of 6 tokens, each with its reset.
  assert widths == dict(
      rl_erl2_rollout=8 + 26, rl_start=8 + 26, rl_samples=8,
      rl_single_rollout=8)
  explore = made['rl_erl2_explore']
  explored = jax.eval_shape(explore.jitted, *explore.arguments)
  assert explored.prompts.shape == (16, 8 + 26)
  # Children of the root, then those of a beam of 2.
  assert explore.tokens == 16 * 6 * (3 + 2 * 3)


def test_every_variant_has_its_programs():
  for variant in erl2_config.VARIANTS:
    config = erl2_config.get_config(variant)
    config.rl.objectives = ('erl2',)
    experiment = programs.for_accelerator(experiment_lib.parse(config))
    mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:1])
    with sharding.use_mesh(mesh):
      for name in programs.names(experiment):
        if name.startswith('rl_'):
          program = programs.build(experiment, mesh, name)
          assert program.name == name
          assert program.tokens > 0 and program.model_flops > 0


@pytest.mark.parametrize('arguments, message', [
    (['--config=configs/countdown.py:tiny', '--programs=rl_erl2_update'],
     "--programs: got 'rl_erl2_update'; it belongs to experiments with 'rl' in "
     'config.stages'),
    ([TINY, '--programs=rl_score_rollout'],
     "--programs: got 'rl_score_rollout'; it belongs to experiments with 'rl'"),
    ([TINY, '--programs=rl_erl2_continue'],
     "--programs: got 'rl_erl2_continue'; it belongs to experiments with"),
    ([TINY, '--programs=rl_erl2_explore'],
     "--programs: got 'rl_erl2_explore'; it belongs to experiments with"),
    ([TINY, '--programs=init', '--config.rl.episodes.exploration=beam'],
     "config.search.outcome: got 'verifier' with "
     "config.rl.episodes.exploration 'beam'"),
    ([TINY, '--programs=rl_erl2_rollouts'],
     "--programs: got 'rl_erl2_rollouts'; did you mean 'rl_erl2_rollout'"),
    ([TINY, '--programs=init', '--config.rl.start=revision'],
     "config.rl.start: got 'revision'; must be one of config.arms, traces, "),
    ([TINY, '--programs=init', '--config.rl.credit.advantage=gae',
      '--config.model.value_head=none'],
     "config.rl.credit.advantage: got 'gae'; the model has no value head"),
    ([TINY, '--programs=rl_erl2_rollout',
      '--config.rl.episodes.episode_length=169'],
     'config.rl.episodes.episode_length: got 169; 507 tokens of a trajectory '
     'after prompts of 8 must be at most config.model.max_length, 512'),
    ([TINY, '--programs=rl_erl2_rollout',
      '--config.rl.episodes.episode_length=90',
      '--config.rl.credit.advantage=vineppo'],
     'config.rl.episodes.episode_length: got 90; twice 270 tokens of a '
     'trajectory'),
    ([TINY, '--programs=rl_erl2_values', '--config.rl.credit.advantage=vineppo',
      '--config.rl.credit.step_end=no'],
     "config.rl.credit.step_end: got 'no'; must be what a token of the "),
    ([TINY, '--programs=rl_erl2_rollout', '--config.rl.episodes.give_up=no'],
     "config.rl.episodes.give_up: 'no' is 2 tokens; must be one token"),
    ([TINY, '--programs=rl_erl2_update',
      '--config.rl.questions.num_questions=30'],
     'config.rl.questions.num_questions: got 30; must be a multiple of 4'),
    ([TINY, '--programs=rl_erl2_update',
      '--config.rl.updates.num_accumulation=3'],
     'config.rl.updates.num_accumulation: got 3; 256 rows of an iteration must '
     'be divisible by 12 = 1 minibatches x 3 accumulation x 4')])
def test_errors(arguments, message):
  with pytest.raises(config_lib.ConfigError) as e:
    compile_lib.main([*arguments, '--topology=v5e:2x2'])
  assert message in str(e.value)
  assert '\n' not in str(e.value)
