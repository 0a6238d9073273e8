# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of one training step and of batched decoding.

  python -m benchmarks.speed --workload=sft --model=S
  python -m benchmarks.speed --workload=decode --model=M --repeats=5

Prints one JSON line with the median of the repeats. Models: S has 5.0M
parameters (256 wide, 6 layers, 8 heads, 4 key/value heads, vocabulary 512), M
29.4M (512, 8, 8, 4, 4096); float32, random weights. `sft` is an AdamW update on
16 rows of 256 tokens; `decode` samples 128 tokens after prompts of 32 for 64
rows, none of which ends early.
"""

import argparse
import functools
import json
import statistics
import time

import jax
import numpy as np

from configs import base
from configs import models
from meta_cot import config as config_lib
from meta_cot import decode
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.objectives import sft
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib
from meta_cot.training import step as step_lib

MODELS = {
    'S': models.get('small'),
    'M': models.get('small') | dict(
        num_layers=8, embed_dim=512, head_dim=64, mlp_dim=1536,
        vocab_size=4096),
}
SFT_ROWS, SFT_LENGTH = 16, 256
DECODE_ROWS, PROMPT, NEW_TOKENS = 64, 32, 128


def sft_run(model: model_config.ModelConfig, mesh: jax.sharding.Mesh):
  """Returns (one timed call, tokens of a call)."""
  config = config_lib.parse(
      optimizer.OptimizerConfig, base.get_config().optimizer)
  update = optimizer.make(config, 1000)
  init = functools.partial(transformer.init, model)
  _, placed = state_lib.shardings(init, update, mesh)

  def loss(params, batch):
    output = transformer.forward(
        model, params, batch.tokens, positions_BxL=batch.positions,
        segment_ids_BxL=batch.segment_ids)
    return sft.loss_sums(output.logits, batch)

  step = jax.jit(
      step_lib.make_train_step(
          loss, update, optimizer.schedule(config, 1000), 1),
      in_shardings=(placed, sharding.batch(mesh)),
      out_shardings=(placed, sharding.replicated(mesh)),
      donate_argnames=('state',))
  rng = np.random.default_rng(0)
  shape = (SFT_ROWS, SFT_LENGTH)
  tokens = rng.integers(0, model.vocab_size, shape).astype(np.int32)
  batch = types.Batch(**sharding.put_batch(dict(
      tokens=tokens, targets=np.roll(tokens, -1, axis=1),
      positions=np.broadcast_to(np.arange(SFT_LENGTH, dtype=np.int32), shape),
      segment_ids=np.ones(shape, np.int32),
      loss_mask=np.ones(shape, np.float32)), mesh))
  state = state_lib.create(init, update, mesh, jax.random.key(0))

  def call():
    nonlocal state
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)

  return call, SFT_ROWS * SFT_LENGTH


def decode_run(model: model_config.ModelConfig, mesh: jax.sharding.Mesh):
  """Returns (one timed call, tokens of a call)."""
  init = functools.partial(transformer.init, model)
  update = optimizer.make(config_lib.parse(
      optimizer.OptimizerConfig, base.get_config().optimizer), 1)
  params = state_lib.create(init, update, mesh, jax.random.key(0)).params
  generate = jax.jit(functools.partial(
      decode.generate, model, max_new_tokens=NEW_TOKENS,
      sampling=decode.Sampling(temperature=1.0),
      eos_id=-1))  # no token has this id: every row runs to the limit
  rng = np.random.default_rng(0)
  prompts = rng.integers(0, model.vocab_size, (DECODE_ROWS, PROMPT))
  placed = sharding.put_batch(dict(
      prompts=prompts.astype(np.int32),
      lengths=np.full(DECODE_ROWS, PROMPT, np.int32)), mesh)

  def call():
    jax.block_until_ready(generate(
        params, placed['prompts'], placed['lengths'], jax.random.key(1)))

  return call, DECODE_ROWS * NEW_TOKENS


WORKLOADS = {'sft': sft_run, 'decode': decode_run}


def main() -> None:
  """Times one workload and prints a JSON line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workload', choices=WORKLOADS, required=True)
  parser.add_argument('--model', choices=MODELS, required=True)
  parser.add_argument('--repeats', type=int, default=5)
  arguments = parser.parse_args()
  model = config_lib.parse(
      model_config.ModelConfig, MODELS[arguments.model], 'model')
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1))
  with sharding.use_mesh(mesh):
    call, tokens = WORKLOADS[arguments.workload](model, mesh)
    call()  # compiles
    seconds = []
    for _ in range(arguments.repeats):
      start = time.perf_counter()
      call()
      seconds.append(time.perf_counter() - start)
  median = statistics.median(seconds)
  print(json.dumps(dict(
      workload=arguments.workload, model=arguments.model,
      devices=jax.device_count(), device=jax.devices()[0].device_kind,
      parameters=model.num_params(), seconds=median,
      tokens_per_second=tokens / median)))


if __name__ == '__main__':
  main()
