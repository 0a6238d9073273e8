# SPDX-License-Identifier: Apache-2.0
"""What benchmarks share: flags, contestants, lines of output."""

import argparse
from collections.abc import Callable
import contextlib
import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp

from benchmarks import models
from benchmarks import plain
from benchmarks import timing
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib
from meta_cot.training import flops

_RIVALS = ('plain', 'torch', 'tunix')


def parser(
    description: str, rivals: tuple[str, ...] = _RIVALS
) -> argparse.ArgumentParser:
  """The flags of a benchmark against some of `rivals`; 'plain' is ours."""
  flags = argparse.ArgumentParser(
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('--model', choices=models.MODELS, required=True)
  flags.add_argument(
      '--dtype', choices=('float32', 'bfloat16'), default='float32',
      help='of matrix products; parameters stay in float32')
  flags.add_argument(
      '--layer-loop', choices=('unroll', 'scan'), help="of ours; the model's")
  flags.add_argument(
      '--remat', choices=('none', *transformer.REMAT), help="the model's")
  flags.add_argument('--repeats', type=_positive, default=9)
  flags.add_argument(
      '--against', type=functools.partial(_some, rivals), default=('plain',),
      help=f'some of {",".join(rivals)}, or none (plain)')
  for name in rivals[1:]:
    flags.add_argument(
        f'--{name}-python', default=sys.executable,
        help=f'interpreter of an environment with {name} (this one)')
  return flags


def _positive(text: str) -> int:
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f'got {text!r}; must be at least 1.')
  return int(text)


def _some(rivals: tuple[str, ...], text: str) -> tuple[str, ...]:
  names = () if text == 'none' else tuple(text.split(','))
  for name in names:
    if name not in rivals:
      raise argparse.ArgumentTypeError(
          f'got {name!r}; must be some of {", ".join(rivals)}, or none.')
  return names


def model(arguments: argparse.Namespace) -> model_config.ModelConfig:
  """The model that the flags describe."""
  changes = dict(layer_loop=arguments.layer_loop, remat=arguments.remat)
  return models.get(
      arguments.model, arguments.dtype,
      **{k: v for k, v in changes.items() if v is not None})


def run(
    workload: str,
    arguments: argparse.Namespace,
    model: model_config.ModelConfig,
    size: models.Training | models.Decoding,
    *,
    ours: Callable,
    by_hand: Callable,
    flops_per_token: float,
) -> None:
  """Times ours and its rivals in turns and prints the lines.

  Args:
    workload: 'train' or 'decode'.
    arguments: from `parser`.
    model: see `model`.
    size: of the workload.
    ours: (model, size) -> one call of the library.
    by_hand: the same for benchmarks/plain.py.
    flops_per_token: useful arithmetic of the workload.

  Raises:
    UserError: a peer cannot run.
  """
  timing.check_allocator()
  rivals = arguments.against
  facts = dict(
      workload=workload, model=arguments.model,
      parameters=model.num_params(), dtype=arguments.dtype,
      layer_loop=model.execution.layer_loop, remat=model.execution.remat,
      **dataclasses.asdict(size), **timing.machine())
  with contextlib.ExitStack() as stack:
    contestants = [timing.of_function('ours', ours(model, size))]
    if 'plain' in rivals:
      facts['logits_difference'] = logits_difference(model)
      contestants.append(timing.of_function('plain', by_hand(model, size)))
    for name in rivals:
      if name != 'plain':
        contestants.append(stack.enter_context(timing.peer(
            name, getattr(arguments, f'{name}_python'),
            peer_settings(workload, arguments, model, size))))
    costs = timing.measure(contestants, arguments.repeats)
  is_known = jax.default_backend() != 'cpu'  # a CPU has no stated peak
  peak = flops.peak_per_device() if is_known else None
  for line in timing.report(
      contestants, costs, tokens=size.tokens, facts=facts):
    if 'contestant' in line and is_known:
      line['utilization'] = line['tokens_per_second'] * flops_per_token / peak
    print(json.dumps(line), flush=True)


def peer_settings(
    workload: str, arguments: argparse.Namespace,
    model: model_config.ModelConfig, size: object,
) -> dict:
  """What a peer must know; it cannot import this project.

  Args:
    workload: name of it.
    arguments: from `parser`.
    model: see `model`.
    size: of the workload, a dataclass.

  Raises:
    UserError: the default backend is not the CPU.
  """
  if jax.default_backend() != 'cpu':
    raise config_lib.UserError(
        f'--against: got {",".join(arguments.against)} on '
        f'{jax.default_backend()}; peers run on the CPU only; use '
        '--against=plain.')
  shape = dataclasses.asdict(model)
  return dict(
      workload=workload, dtype=arguments.dtype,
      **{name: shape[name] for name in (
          'vocab_size', 'num_layers', 'embed_dim', 'num_heads', 'num_kv_heads',
          'head_dim', 'mlp_dim')},
      rope_theta=model.rope.theta, norm_epsilon=model.block.norm_epsilon,
      **dataclasses.asdict(size), **dataclasses.asdict(models.adamw()))


def logits_difference(model: model_config.ModelConfig) -> float:
  """Largest difference of ours to those by hand on 2 x 32 tokens.

  A factor of the rounding of `model.dtype`; 1e-5 in float32.
  """
  tokens_BxL = jnp.asarray(models.prompts(model, models.Decoding(rows=2)))
  params = models.init(model, 0)
  first = jax.jit(lambda params: transformer.forward(
      model, params, tokens_BxL).logits)(params)
  second = jax.jit(lambda weights: plain.forward(
      model, weights, tokens_BxL))(plain.from_params(model, params))
  return float(jnp.max(jnp.abs(first - second)))
