# SPDX-License-Identifier: Apache-2.0
"""Llama 3.1 shapes, fine-tuned on Countdown Stream-of-Search traces, on pods.

  python -m meta_cot.compile --config=configs/llama31.py:8b_v5p_32
      --topology=v5p-32

Variants:
  8b_v5p_32    8 billion parameters on 16 v5p chips (topology v5p:2x2x4); not
               yet run, compiled.
  8b_v5e_64    the same on 64 v5e chips (v5e:8x8); not yet run, compiled.
  70b_v5p_128  70 billion parameters on 64 v5p chips (v5p:4x4x4); not yet run,
               compiled.

Mesh, batch, rematerialisation and pieces of the loss were chosen with
`meta_cot.compile`; docs/pods.md has its numbers. None has run on hardware yet.

The tokenizer is our own, trained on the traces; the table has the 128,256 rows
of the released models, so that their weights will fit. Until those can be
loaded (they come with meta_cot.convert), parameters start at random.
"""

import ml_collections

from configs import base
from configs import countdown
from configs import models


def get_config(variant: str = '8b_v5p_32') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  c = countdown.pipeline()
  _traces(c)
  change(c)
  countdown.stream_of_search(c)
  c.tokenizer.vocabulary.vocab_size = 1024
  return c


def _traces(c: ml_collections.ConfigDict) -> None:
  """500,000 traces of 4 numbers of 1..99, in rows of 4,096 tokens."""
  c.mesh.update(dict(data=1, fsdp=-1))
  c.task.update(dict(
      num_numbers=4, max_number=99, max_target=100, enumerate_all=False,
      num_train=500_000, heldout_numbers_fraction=0.02,
      operands='listed'))
  c.problems.update(dict(num_shards=64, num_processes=16))
  c.traces.update(dict(num_shards=64, num_processes=16))
  c.sft.update(dict(
      num_tokens=1_000_000_000, log_every_steps=10, eval_every_steps=250,
      save_every_steps=250, max_to_keep=4))
  c.sft.data.update(dict(
      sequence_length=4096, packing_bins=64, num_streams=16, num_workers=1))
  c.sft.optimizer.update(dict(
      learning_rate=1e-5, final_fraction=0.1, warmup_steps=100, b2=0.95,
      weight_decay=0.1))
  c.evaluate.samples.update(dict(
      batch_size=64, max_new_tokens=3968, num_samples=32))


def _8b_v5p_32(c: ml_collections.ConfigDict) -> None:
  c.model.update_from_flattened_dict(models.get('llama31_8b') | {
      'max_length': 4096, 'execution.remat': 'dots'})
  c.sft.update(dict(batch_size=64, num_loss_chunks=2))


def _8b_v5e_64(c: ml_collections.ConfigDict) -> None:
  c.model.update_from_flattened_dict(models.get('llama31_8b') | {
      'max_length': 4096, 'execution.remat': 'attention'})
  c.sft.update(dict(batch_size=128, num_loss_chunks=4))


def _70b_v5p_128(c: ml_collections.ConfigDict) -> None:
  c.model.update_from_flattened_dict(models.get('llama31_70b') | {
      'max_length': 4096, 'execution.remat': 'dots'})
  # Over 64 devices at once XLA makes every gather a full all-reduce.
  c.mesh.update(dict(fsdp=16, model=4))
  c.sft.update(dict(batch_size=32, num_loss_chunks=2))


VARIANTS = {
    '8b_v5p_32': _8b_v5p_32,
    '8b_v5e_64': _8b_v5e_64,
    '70b_v5p_128': _70b_v5p_128,
}
