# SPDX-License-Identifier: Apache-2.0
"""Where every array of a model stands in a checkpoint of Hugging Face.

One table for both directions. Theirs has one array for each layer, matrices as
[out, in]; ours has all layers in one, matrices as [in, out] with heads apart.
Axes: L layers, D embedding, N heads, H per head, M hidden units, V vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from meta_cot.model import config as model_config


class Entry(NamedTuple):
  """One array."""

  ours: tuple[str, ...]  # path in the tree of parameters
  theirs: str  # with {} for the layer, where there is one for each
  axes: str  # of ours, without L
  is_matrix: bool  # theirs is turned


def _attention(name: str, kernel: str, bias: str) -> tuple[Entry, ...]:
  ours, theirs = ('layers', 'attention', name), f'{{}}.self_attn.{name}'
  return (
      Entry((*ours, 'kernel'), f'{theirs}.weight', kernel, True),
      Entry((*ours, 'bias'), f'{theirs}.bias', bias, False))


def _norm(ours: str, theirs: str) -> Entry:
  return Entry(('layers', ours, 'scale'), f'{{}}.{theirs}.weight', 'D', False)


_LAYER = 'model.layers.'
_COMMON = (
    Entry(('embedder', 'embedding'), 'model.embed_tokens.weight', 'VD', False),
    Entry(('embedder', 'readout'), 'lm_head.weight', 'DV', True),
    Entry(('final_norm', 'scale'), 'model.norm.weight', 'D', False),
    *_attention('q_proj', 'DNH', 'NH'), *_attention('k_proj', 'DNH', 'NH'),
    *_attention('v_proj', 'DNH', 'NH'), *_attention('o_proj', 'NHD', 'D'),
    *(Entry(('layers', 'attention', name, 'scale'),
            f'{{}}.self_attn.{name}.weight', 'H', False)
      for name in ('q_norm', 'k_norm')),
    *(Entry(('layers', 'mlp', name, 'kernel'), f'{{}}.mlp.{name}.weight', axes,
            True)
      for name, axes in (
          ('gate_proj', 'DM'), ('up_proj', 'DM'), ('down_proj', 'MD'))),
    _norm('attention_norm', 'input_layernorm'))
_PRE_NORMS = (_norm('mlp_norm', 'post_attention_layernorm'),)
_POST_NORMS = (
    _norm('attention_post_norm', 'post_attention_layernorm'),
    _norm('mlp_norm', 'pre_feedforward_layernorm'),
    _norm('mlp_post_norm', 'post_feedforward_layernorm'))


def entries(model: model_config.ModelConfig) -> Iterator[Entry]:
  """Lists the arrays that a model has; its value head is not among them."""
  block = model.block
  for entry in (
      *_COMMON, *(_POST_NORMS if block.use_post_norms else _PRE_NORMS)):
    kind = entry.ours[-1]
    has = {
        'readout': not model.tie_embeddings,
        'bias': block.use_qkv_bias and entry.ours[-2] != 'o_proj'}.get(
            kind, block.use_qk_norm or entry.ours[-2] not in (
                'q_norm', 'k_norm'))
    if has:
      yield entry._replace(
          theirs=entry.theirs.replace('{}', f'{_LAYER}{{}}'))


def to_ours(
    entry: Entry, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Turns an array of theirs (of one layer) into ours, without L."""
  return (theirs.T if entry.is_matrix else theirs).reshape(shape)


def to_theirs(entry: Entry, ours: np.ndarray) -> np.ndarray:
  """Turns an array of ours (of one layer) into theirs.

  The inner axes are joined: heads are no axis there.
  """
  if not entry.is_matrix:
    return ours.reshape(-1) if entry.axes == 'NH' else ours
  rows = {'NHD': ours.shape[-1]}.get(entry.axes)
  flat = ours.reshape(-1, rows) if rows else ours.reshape(ours.shape[0], -1)
  return np.ascontiguousarray(flat.T)
