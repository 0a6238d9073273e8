# SPDX-License-Identifier: Apache-2.0
"""Seconds of a step of reinforcement learning, and of its rollout.

  source launch/environment.sh
  python -m benchmarks.rl --model=S
  python -m benchmarks.rl --model=S --against=plain,trl,tunix \\
      --trl-python=ENVIRONMENT/bin/python \\
      --tunix-python=ENVIRONMENT/bin/python
  python -m benchmarks.rl --model=S --workloads=flat

Workloads, one JSON line a contestant and one a ratio (above 1: ours is faster):

step: GRPO, rollout, reward and update, against the trainers of other libraries.
erl2: the same with several episodes a trajectory, ours alone.
rollout: the rollout of `step` against plain sampling of as many tokens.
lag: the step with a judge that takes `--judge-seconds` on the host, one step
  behind (`rl.lag = 1`) against in turn.
flat: the step without a KL where all samples of a share of the questions are
  equally right, against the same with all rows in the update.
refill: trajectories that end at random, in slots that are refilled, against
  plain sampling of as many tokens, and against batches that wait for the
  longest text.

docs/benchmarks.md says what is measured and how to read it.
"""

import argparse
from collections.abc import Iterator
import contextlib
import dataclasses
import json
import types

import numpy as np

from benchmarks import contest
from benchmarks import models
from benchmarks import rl_workloads as workloads
from benchmarks import timing
from meta_cot.model import config as model_config
from meta_cot.settings import config as config_lib

_RIVALS = ('plain', 'trl', 'tunix')
_STOP_ID = 0  # of refill


def step(
    model: model_config.ModelConfig, size: workloads.Stepping,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """Ours against the trainers.

  Raises:
    UserError: a peer cannot run.
  """
  rows = []
  call = workloads.iterating(model, size)
  with contextlib.ExitStack() as stack:
    contestants = [timing.of_function('ours', lambda: rows.append(call()))]
    for name in arguments.against:
      if name != 'plain':
        contestants.append(stack.enter_context(timing.peer(
            name, getattr(arguments, f'{name}_python'),
            contest.peer_settings('rl', arguments, model, size))))
    costs = timing.measure(contestants, arguments.repeats)
  for line in timing.report(
      contestants, costs, tokens=size.rows * size.new_tokens,
      facts=dict(workload='step', episodes=1)):
    if line.get('contestant') == 'ours':
      line |= _breakdown(rows)
    yield line


def erl2(
    model: model_config.ModelConfig, size: workloads.Stepping,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """Several episodes a trajectory, the last one optimised."""
  rows = []
  call = workloads.iterating(
      model, size, num_episodes=arguments.episodes, objective='erl2')
  contestants = [timing.of_function('ours', lambda: rows.append(call()))]
  costs = timing.measure(contestants, arguments.repeats)
  for line in timing.report(
      contestants, costs,
      tokens=size.rows * size.new_tokens * arguments.episodes,
      facts=dict(workload='erl2', episodes=arguments.episodes)):
    yield line | _breakdown(rows)


def flat(
    model: model_config.ModelConfig, size: workloads.Stepping,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """Updates of the questions that have a gradient, against all rows."""
  size, rows = dataclasses.replace(size, beta=0.0), {}

  def stepping(name, skips):
    call = workloads.iterating(
        model, size, flat=arguments.flat, skips_flat_groups=skips)
    return timing.of_function(
        name, lambda: rows.setdefault(name, []).append(call()))

  contestants = [stepping('ours', True), stepping('all rows', False)]
  costs = timing.measure(contestants, arguments.repeats)
  for line in timing.report(
      contestants, costs, tokens=size.rows * size.new_tokens,
      facts=dict(workload='flat', flat=arguments.flat)):
    if 'contestant' in line:
      line |= _breakdown(rows[line['contestant']])
    yield line


def lag(
    model: model_config.ModelConfig, size: workloads.Stepping,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """Iterations that are drawn a step ahead, against one after the other."""
  rows = {}

  def stepping(name, lag):
    call = workloads.iterating(
        model, size, lag=lag, judge_seconds=arguments.judge_seconds)
    return timing.of_function(
        name, lambda: rows.setdefault(name, []).append(call()))

  contestants = [stepping('ours', 1), stepping('in turn', 0)]
  costs = timing.measure(contestants, arguments.repeats)
  for line in timing.report(
      contestants, costs, tokens=size.rows * size.new_tokens, facts=dict(
          workload='lag', judge_seconds=arguments.judge_seconds)):
    if 'contestant' in line:
      line |= _breakdown(rows[line['contestant']])
    yield line


def _breakdown(rows: list[dict[str, float]]) -> dict:
  """Seconds of the parts of an iteration; the first one compiled."""
  return dict(
      trained_tokens=int(rows[-1]['trained_tokens']),
      occupancy=rows[-1]['occupancy'],
      breakdown={
          name: timing.spread(seconds)
          for name, seconds in workloads.phases(rows[1:]).items()})


def rollout(
    model: model_config.ModelConfig, size: workloads.Stepping,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """The rollout against plain sampling of as many tokens.

  Plain sampling reads the prompt in every row, the rollout once a question:
  what that saves is measured apart and not counted.
  """
  params = models.init(model, 0)
  plain = lambda rows, tokens: workloads.sampling(
      model, size, params, num_rows=rows, new_tokens=tokens)
  once = dataclasses.replace(size, samples=1)
  contestants = [timing.of_function(*pair) for pair in (
      ('ours', workloads.playing(model, size, params, num_slots=size.rows)),
      ('plain', plain(size.rows, size.new_tokens)),
      ('reading', plain(size.rows, 1)),
      ('prompts', workloads.sampling(
          model, once, params, num_rows=size.questions, new_tokens=1)))]
  costs = timing.measure(contestants, arguments.repeats)
  less = lambda a, b, c: timing.Cost(
      a.seconds - b.seconds + c.seconds,
      a.cpu_seconds - b.cpu_seconds + c.cpu_seconds)
  costs['plain'] = list(map(
      less, costs['plain'], costs.pop('reading'), costs.pop('prompts')))
  yield from timing.report(
      contestants[:2], costs, tokens=size.rows * size.new_tokens,
      facts=dict(workload='rollout'))


def refill(
    model: model_config.ModelConfig, size: workloads.Stepping,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """Texts that end at random, in slots of which none waits for another."""
  size = dataclasses.replace(
      size, questions=size.questions * arguments.refills)
  slots = size.rows // arguments.refills
  params = workloads.with_stops(
      model, models.init(model, 0), size, _STOP_ID, size.new_tokens / 2)
  play = workloads.playing(
      model, size, params, num_slots=slots, stop_ids=(_STOP_ID,))
  batches = workloads.sampling(
      model, size, params, num_rows=slots, new_tokens=size.new_tokens,
      stop_ids=(_STOP_ID,))
  few = dataclasses.replace(size, questions=size.questions // arguments.refills)
  full = workloads.sampling(
      model, few, params, num_rows=slots, new_tokens=size.new_tokens)
  played = play()
  lengths_N = played.lengths
  tokens = int(lengths_N.sum())
  of_batches = int(sum(x.lengths.sum() for x in batches()))
  contestants = [timing.of_function(*pair) for pair in (
      ('ours', play), ('plain', full), ('batches', batches))]
  costs = timing.measure(contestants, arguments.repeats)
  for name, written in (
      ('plain', slots * size.new_tokens), ('batches', of_batches)):
    share = tokens / written
    costs[name] = [
        timing.Cost(c.seconds * share, c.cpu_seconds * share)
        for c in costs[name]]
  occupancy = float(played.num_live) / (int(played.num_steps) * slots)
  yield from timing.report(contestants, costs, tokens=tokens, facts=dict(
      workload='refill', slots=slots, trajectories=len(lengths_N),
      tokens_per_trajectory=float(np.mean(lengths_N)),
      occupancy=occupancy))


WORKLOADS = types.MappingProxyType(dict(
    step=step, erl2=erl2, flat=flat, lag=lag, rollout=rollout,
    refill=refill))
_PLAIN = ('rollout', 'refill')  # measured against plain sampling


def _parser() -> argparse.ArgumentParser:
  flags = contest.parser(__doc__, _RIVALS)
  for field in dataclasses.fields(workloads.Stepping):
    flags.add_argument(
        f'--{field.name.replace("_", "-")}', type=field.type,
        default=field.default)
  flags.add_argument('--episodes', type=int, default=3, help='of erl2')
  flags.add_argument(
      '--flat', type=float, default=0.5,
      help='of flat: share of the questions without a gradient')
  flags.add_argument(
      '--judge-seconds', type=float, default=0.5,
      help='of lag: what the judge waits')
  flags.add_argument(
      '--refills', type=int, default=4,
      help='of refill: as many times the questions, in the same slots')
  flags.add_argument(
      '--workloads', type=lambda text: text.split(','),
      help='which, between commas; without: all, rollout and refill if plain '
      'is a rival')
  return flags


def _chosen(
    flags: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[str]:
  """Names the workloads to run."""
  if arguments.workloads is None:
    return [
        name for name in WORKLOADS
        if name not in _PLAIN or 'plain' in arguments.against]
  for name in arguments.workloads:
    if name not in WORKLOADS:
      flags.error(f'--workloads: got {name!r}; '
                  f'{config_lib.nearest(name, tuple(WORKLOADS))}.')
    if name in _PLAIN and 'plain' not in arguments.against:
      flags.error(f'--workloads: got {name!r}, which is measured against '
                  'plain; add plain to --against.')
  return arguments.workloads


def main(argv: list[str] | None = None) -> None:
  """Runs the workloads and prints their lines."""
  flags = _parser()
  arguments = flags.parse_args(argv)
  chosen = _chosen(flags, arguments)
  timing.check_allocator()
  model = contest.model(arguments)
  size = workloads.Stepping(**{
      field.name: getattr(arguments, field.name)
      for field in dataclasses.fields(workloads.Stepping)})
  facts = dict(
      model=arguments.model, parameters=model.num_params(),
      dtype=arguments.dtype, **dataclasses.asdict(size), **timing.machine())
  for name in chosen:
    for line in WORKLOADS[name](model, size, arguments):
      print(json.dumps(facts | line), flush=True)


if __name__ == '__main__':
  main()
