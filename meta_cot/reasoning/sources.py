# SPDX-License-Identifier: Apache-2.0
"""What a state of a language model's search is worth, by sources of values.

Each is a `search.values.Source` for a `LanguageStep`: a function of texts,
another model, or completions. Axes as in `step`; K completions of a state.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import pages
from meta_cot.model import transformer
from meta_cot.reasoning import node as node_lib
from meta_cot.reasoning import prompts as prompts_lib
from meta_cot.reasoning import step as step_lib
from meta_cot.search import base
from meta_cot.search import merging
from meta_cot.search import values

# Folded into the key of a leaf, gives the keys of completions of its children;
# no branch has this number.
_COMPLETIONS = 2**32 - 2


@dataclasses.dataclass(frozen=True)
class OfTexts:
  """A function of the text up to a node."""

  function: node_lib.OfText  # float32 []
  pad_id: int

  def begin(self, own: Any, inputs: Any, root: base.Root) -> values.Beginning:
    """See `values.Source`."""
    del own
    empty = jnp.zeros((len(root.value), 1), jnp.int32)
    return values.Beginning(jax.vmap(self.function)(
        inputs['problem'], empty, empty[:, 0]).astype(jnp.float32))

  def __call__(self, params, path, kept, expansion) -> values.Worth:
    """See `values.Source`."""
    del kept
    (_, prompts), _ = params
    texts = node_lib.texts_of_children(
        path, expansion.embedding, prompts.problems, self.pad_id)
    return values.Worth(texts.each(self.function, jnp.float32))


@dataclasses.dataclass(frozen=True)
class OfModel:
  """The value head of another model with the same tokens.

  It reads every prompt once, and the steps of all children in one pass. A node
  keeps a page of its keys and values: nothing is read twice.

  Raises:
    ValueError: there is no value head; when called, more positions than
      `config.max_length`.
  """

  config: model_config.ModelConfig
  step_length: int  # T

  def __post_init__(self):
    prompts_lib.check_value(self.config, None)

  def begin(self, own: Any, inputs: Any, root: base.Root) -> values.Beginning:
    """See `values.Source`; `own` are the parameters of the model."""
    del root
    (_, prompts), root = prompts_lib.start(
        self.config, own, inputs['prompt'], inputs['length'],
        step_length=self.step_length)
    return values.Beginning(
        root.value, kept=root.embedding.page, rows=prompts)

  def __call__(self, params, path, kept, expansion) -> values.Worth:
    """See `values.Source`."""
    _, (params, prompts) = params
    params = transformer.slice_layers(self.config, params)
    hidden_RxAxD, page = _read(
        self.config, params, prompts, path, kept, expansion.embedding)
    return values.Worth(
        transformer.read_out(self.config, params, hidden_RxAxD).values,
        kept=page)


@dataclasses.dataclass(frozen=True)
class OfVerdicts:
  """The share of K verdicts of another model that are right, in words.

  It reads every prompt once and the steps of all children in one pass, as
  `OfModel`; behind a step it reads the token that asks, and writes K verdicts,
  each perhaps behind a verification. What has ended is asked about too. The
  question itself is worth 1/2, as nobody asks about it.
  """

  writer: step_lib.LanguageStep  # of verdicts: K branches, no delimiters
  step_length: int  # T, of a step of the search
  ask_id: int
  is_merged: bool  # as of `OfCompletions`

  def begin(self, own: Any, inputs: Any, root: base.Root) -> values.Beginning:
    """See `values.Source`; `own` are the parameters of the model."""
    (_, prompts), mine = prompts_lib.start(
        self.writer.config, own, inputs['prompt'], inputs['length'],
        step_length=self.step_length, value=nothing)
    return values.Beginning(
        jnp.full(root.value.shape, 0.5, jnp.float32), kept=mine.embedding,
        rows=prompts)

  def __call__(self, params, path, kept, expansion) -> values.Worth:
    """See `values.Source`."""
    _, (params, prompts) = params
    config = self.writer.config
    params = transformer.slice_layers(config, params)
    hidden_RxAxD, page = _read(
        config, params, prompts, path, kept.page, expansion.embedding)
    node = expansion.embedding.replace(page=page, hidden=hidden_RxAxD)
    if self.is_merged:
      expansion = merging.merge_siblings(expansion, expansion.step_key)
    shape = expansion.is_valid.shape
    asked = _go_on(path.replace(embeddings=kept), node, expansion.is_valid)
    verdicts = self.writer((params, prompts), None, _go_on(
        asked, self._asking(params, prompts, asked),
        (asked.length > 0)[:, None]))
    return values.Worth(
        jnp.mean(verdicts.reward, axis=1).reshape(shape), kept=node,
        **_cost(verdicts, shape))

  def _asking(self, params, prompts, path) -> node_lib.Node:
    """The token that asks behind every path, as a step [C, 1]."""
    config, steps = self.writer.config, node_lib.before(path)
    end_C = node_lib.last(path.embeddings.page.end, path.length)
    hidden_Cx1xD, cache = transformer.decode_hidden(
        config, params, jnp.full((len(end_C), 1), self.ask_id, jnp.int32),
        cache_lib.create(config, len(end_C), self.step_length),
        positions_BxL=end_C[:, None],
        shared=(prompts.cache, pages.join(steps[0].page, steps[1])))
    shape = len(end_C), 1
    tokens_Cx1xT = jnp.full(
        (*shape, self.step_length), self.ask_id, jnp.int32)
    return node_lib.Node(
        tokens=tokens_Cx1xT, hidden=hidden_Cx1xD, score=jnp.zeros(shape),
        page=pages.cut(
            cache, shape, jnp.ones(shape, jnp.int32), end_C[:, None]))


def _read(config, params, prompts, path, kept: pages.Page, node: node_lib.Node):
  """Reads the steps of children in one pass of another model.

  Args:
    config: of the model.
    params: of `transformer.slice_layers`.
    prompts: rows of the model.
    path: of the search.
    kept: pages of the model [R, D, ...] on the path.
    node: the children [R, A, ...], as the search made them.

  Returns:
    The trunk's output at the last token of every child, [R, A, width], and
    their pages.
  """
  shape, num_path = node.tokens.shape[:2], path.nodes.shape[1]
  step_length = node.tokens.shape[2]
  prompts_lib.check_room(
      config, prompts.cache.num_slots, num_path * step_length,
      f'{num_path} steps of {step_length}')
  of_steps = jax.tree.map(lambda x: x[:, 1:], kept)
  _, is_used_RxU = node_lib.before(path)
  tokens_CxT = node.tokens.reshape(-1, step_length)
  slots_1xT = jnp.arange(step_length)[None]
  length_C, start_C = (
      x.reshape(-1) for x in (node.page.length, node.page.position))
  hidden_CxTxD, cache = transformer.decode_hidden(
      config, params, tokens_CxT, cache_lib.create(config, *tokens_CxT.shape),
      positions_BxL=start_C[:, None] + slots_1xT,
      is_valid_BxL=slots_1xT < length_C[:, None],
      shared=(prompts.cache, pages.join(of_steps, is_used_RxU)))
  return node_lib.last(hidden_CxTxD, length_C).reshape(*shape, -1), pages.cut(
      cache, shape, node.page.length, node.page.position)


@dataclasses.dataclass(frozen=True)
class OfCompletions:
  """The share of right ones among K completions (arXiv 2501.04682, Eq. 11).

  Of every child that has not ended; what has ended is worth its verdict, and
  the question itself 1/2, as nobody completes it. A completion goes on from the
  pages of the search, so that what stands before it is not read again. Its
  draws follow from the leaf's own key and the branch.
  """

  step: step_lib.LanguageStep  # of the search
  num_rollouts: int  # K
  length: int  # tokens of a completion, at most; one that is longer is wrong
  outcome: node_lib.OfText
  # Equal steps of a leaf are merged: the first one is completed.
  is_merged: bool

  def begin(self, own: Any, inputs: Any, root: base.Root) -> values.Beginning:
    """See `values.Source`."""
    del own, inputs
    return values.Beginning(jnp.full(root.value.shape, 0.5, jnp.float32))

  def __call__(self, params, path, kept, expansion) -> values.Worth:
    """See `values.Source`."""
    del kept
    params, _ = params
    node, shape = expansion.embedding, expansion.value.shape
    if self.is_merged:
      expansion = merging.merge_siblings(expansion, expansion.step_key)
    is_open_RxA = ~expansion.is_terminal & expansion.is_valid
    completed = dataclasses.replace(
        self.step, branching=self.num_rollouts, step_length=self.length,
        delimiter_ids=(), outcome=self.outcome, value=nothing, state_key=None,
        is_legal=None, siblings='independent')(
            params, None, _go_on(path, node, is_open_RxA))
    right_RxAxK = completed.reward.reshape(*shape, -1)
    texts = node_lib.texts_of_children(
        path, node, params[1].problems, self.step.pad_id)
    return values.Worth(
        jnp.where(
            expansion.is_terminal, texts.each(self.outcome, jnp.float32),
            jnp.mean(right_RxAxK, axis=2)), **_cost(completed, shape))


def _cost(written: base.Expansion, shape: tuple[int, int]) -> dict[str, Any]:
  """What was written behind the children of leaves, for each child."""
  of_child = lambda x_CxK: jnp.sum(
      x_CxK, axis=1, dtype=jnp.int32).reshape(shape)
  return dict(
      num_tokens=of_child(written.num_tokens),
      num_passes=of_child(written.num_passes))


def _go_on(
    path: base.Path, children: node_lib.Node, is_open_RxA: jax.Array
) -> base.Path:
  """The paths one step longer, C rows; those that are not open are empty."""
  num_rows, branching = is_open_RxA.shape
  num_path = path.nodes.shape[1] + 1
  each = lambda x: jnp.repeat(x, branching, axis=0)
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  is_last_CxD = jnp.arange(num_path)[None] == each(path.length)[:, None]

  def longer(x_RxD, x_RxA):
    x_CxD = each(jnp.pad(
        x_RxD, [(0, int(i == 1)) for i in range(x_RxD.ndim)]))
    is_last = is_last_CxD.reshape(*is_last_CxD.shape, *[1] * (x_CxD.ndim - 2))
    return jnp.where(is_last, flat(x_RxA)[:, None], x_CxD)

  keys_R = jax.vmap(
      lambda key: jax.random.fold_in(key, _COMPLETIONS))(path.keys)
  keys_RxA = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(
      keys_R, jnp.arange(branching))
  return base.Path(
      embeddings=jax.tree.map(longer, path.embeddings, children),
      length=jnp.where(flat(is_open_RxA), each(path.length) + 1, 0),
      nodes=jnp.zeros((num_rows * branching, num_path), jnp.int32),
      keys=flat(keys_RxA))


def nothing(*_) -> jax.Array:
  """Says 0 of any text."""
  return jnp.zeros((), jnp.float32)
