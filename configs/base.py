# SPDX-License-Identifier: Apache-2.0
"""The settings that the stages of an experiment share, with their meaning.

An experiment file starts from `get_config()` here, takes its task from
`configs/tasks.py` and its stages from `configs/kinds.py`, and overrides what
differs; the command line overrides again: `--config.sft.num_tokens=1_000`.
Types and ranges are declared beside the code that reads them and checked before
any work.
"""

from collections.abc import Callable, Mapping

import ml_collections

placeholder = ml_collections.config_dict.placeholder


def choose(variants: Mapping[str, Callable], variant: str) -> Callable:
  """The function of one variant of an experiment.

  Raises:
    ValueError: no such variant; lists them.
  """
  if variant not in variants:
    raise ValueError(
        f'variant: got {variant!r}; must be one of {", ".join(variants)}.')
  return variants[variant]


def get_config() -> ml_collections.ConfigDict:
  """Makes an experiment without a task and stages: a small model."""
  c = ml_collections.ConfigDict()
  c.schema = 2  # of this file; a workdir of another one cannot be continued
  c.seed = 0  # of everything: problems, traces, initialisation, shuffling
  c.stages = ()  # names of groups that have a kind, in the order of the run
  # Compiled programs, for the next process: workdir (or where the environment's
  # JAX_COMPILATION_CACHE_DIR says) | off | a path or bucket.
  c.compilation_cache = 'workdir'
  # compact | compact_digits | compact_threads | compact_digits_threads |
  # compact_drafts | stream_of_search | prose | searchformer | cells
  c.style = 'compact'
  c.mesh = _mesh()
  c.model = _model()
  return c


def _mesh():
  m = ml_collections.ConfigDict()
  m.data = -1  # data-parallel devices; -1: all that are left over
  m.fsdp = 1  # devices that share parameters and optimiser state
  m.model = 1  # tensor-parallel devices (heads, feed-forward, vocabulary)
  return m


def _model():
  m = ml_collections.ConfigDict()
  m.vocab_size = 128  # rows of the embedding; at least the tokenizer's size
  m.num_layers = 4
  m.embed_dim = 96
  m.num_heads = 4  # query heads
  m.num_kv_heads = 4  # key/value heads; divides num_heads
  m.head_dim = 24
  m.mlp_dim = 256
  m.max_length = 512  # longest sequence, in tokens
  m.tie_embeddings = True
  m.embed_scale = True  # embeddings times sqrt(embed_dim) (Gemma)
  m.logit_softcap = placeholder(float)
  m.value_head = 'shared'  # shared (read-out on the trunk) | none
  m.rope = r = ml_collections.ConfigDict()
  r.theta = 10_000.0
  r.local_theta = placeholder(float)  # of sliding layers; None: the same
  r.scaling_factor = placeholder(float)  # Llama-3 scaling; None: off
  r.low_freq_factor = placeholder(float)  # None: linear scaling
  r.high_freq_factor = placeholder(float)
  r.original_max_length = placeholder(int)
  m.block = b = ml_collections.ConfigDict()
  b.activation = 'silu'  # silu (SwiGLU) | gelu_tanh (GeGLU)
  b.norm_epsilon = 1e-5
  b.norm_plus_one = False  # scale by 1 + w (Gemma)
  b.use_post_norms = False  # norms after attention and feed-forward (Gemma)
  b.use_qk_norm = False  # RMSNorm of queries and keys (Qwen 3, Gemma 3)
  b.use_qkv_bias = False  # Qwen 2.5
  b.query_scale = placeholder(float)  # None: head_dim ** -0.5
  b.attention_softcap = placeholder(float)  # cap * tanh(x / cap); None: off
  b.sliding_window = placeholder(int)  # tokens seen by sliding layers
  b.sliding_window_pattern = placeholder(int)  # every n-th layer is global
  m.execution = e = ml_collections.ConfigDict()
  e.layer_loop = 'unroll'  # unroll (CPU) | scan (TPU, GPU: compiles faster)
  # What the backward pass computes again, to save memory. none: nothing; dots:
  # all but matrix products and splash attention; outputs: all but the blocks'
  # outputs; attention: all but splash attention; full: everything.
  e.remat = 'none'
  # auto (by platform) | dense | splash (TPU) | cudnn (GPU).
  e.attention = 'auto'
  e.compute_dtype = 'auto'  # auto: bfloat16 on accelerators, float32 on CPU
  e.param_dtype = 'float32'
  return m
