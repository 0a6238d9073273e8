# SPDX-License-Identifier: Apache-2.0
"""The language model as the step function of a search (paper section 3.3).

A state is a prompt and the steps so far; an action is one more step: tokens up
to a delimiter. A node of the tree keeps its own step only, with the keys and
values of its tokens and the trunk's output at the last one. So the prompt is
read once, the first token of every child follows from its parent's output, and
a child's value from the pass that read its last token: nothing is read twice.

Axes besides those of `search.base`: C = R * A children that are written
together, T slots of a step, U = D - 1 steps of a path (the root has none).
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import pages
from meta_cot.model import transformer
from meta_cot.reasoning import compaction
from meta_cot.reasoning import node as node_lib
from meta_cot.reasoning import prompts as prompts_lib
from meta_cot.reasoning import siblings as siblings_lib
from meta_cot.search import base
from meta_cot.types import Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class LanguageStep:
  """A `search.base.StepFn`; its `params` are made by `start`.

  A step ends with a delimiter, unless all of it is blank, with one of `eos_ids`
  (the child is terminal), or after `step_length` tokens. Token t of branch a is
  drawn with the leaf's own key (`Path.keys`) folded with a, then with t.
  `log_prob` is the sum over the tokens of a step of those of the distribution
  that was sampled, as in `decode.Generation`; `num_tokens` is the length of the
  step.

  With `siblings='without_replacement'` the children of a leaf are different
  steps, in the order of their scores (`Node.score`); see `siblings` for their
  probabilities. There are fewer where the distribution has fewer. Their lengths
  together are no less than the tokens that were drawn for them: a beginning
  that several share was drawn once.

  Raises:
    ValueError: a setting is out of range, or there is nothing to take values
      from; when called, P + D * T positions exceed `config.max_length`.
  """

  config: model_config.ModelConfig
  _: dataclasses.KW_ONLY
  branching: int  # A, children of a leaf, unless the path wants fewer
  step_length: int  # T
  delimiter_ids: tuple[int, ...]  # tokens that end a step, and belong to it
  eos_ids: tuple[int, ...]  # tokens that end the text
  pad_id: int  # fills a step behind its end
  sampling: decode.Sampling
  # The reward of a terminal child, float32 []; its value by default.
  outcome: node_lib.OfText | None = None
  # Of every child, float32 []; that of the value head by default.
  value: node_lib.OfText | None = None
  # Of every child, uint32 [2]; equal for equal states, which are not compared
  # without it.
  state_key: node_lib.OfText | None = None
  # Of every child, bool []; where it is False there is no such child, though
  # its tokens are spent.
  is_legal: node_lib.OfText | None = None
  siblings: str = 'independent'  # of `siblings.KINDS`
  # The first token of a text opens it: it ends no step, though it is one of
  # `delimiter_ids`.
  has_opening: bool = False
  blank_ids: tuple[int, ...] = ()  # tokens that write blanks, or nothing
  # Half of the rows go on alone when no more are live. Not of siblings that are
  # drawn without replacement, which are chosen together.
  is_compacted: bool = False
  # A text is one attempt: behind its end another one may follow, unless its
  # outcome is positive or the path is at its longest.
  has_attempts: bool = False

  def __post_init__(self):
    base.check_positive(
        branching=self.branching, step_length=self.step_length)
    decode.check_ids(
        self.config, eos_ids=self.eos_ids, pad_id=(self.pad_id,),
        delimiter_ids=self.delimiter_ids, blank_ids=self.blank_ids)
    prompts_lib.check_value(self.config, self.value)
    base.check_choice('siblings', self.siblings, siblings_lib.KINDS)
    if self.siblings != 'independent' and self.sampling.temperature == 0:
      raise ValueError(
          f'siblings: got {self.siblings!r} with temperature 0; must be '
          "'independent': only one step is likeliest.")

  def __call__(
      self, params: tuple[Params, prompts_lib.Prompts], rng: PRNGKey,
      path: base.Path,
  ) -> base.Expansion:
    """Writes A children below every leaf; `rng` is not used."""
    del rng  # path.keys do not depend on the batch
    params, prompts = params
    params = transformer.slice_layers(self.config, params)
    num_rows, num_path = path.nodes.shape
    before, is_used_RxU = node_lib.before(path)
    num_before = (num_path - 1) * before.page.num_slots
    prompts_lib.check_room(
        self.config, prompts.cache.num_slots, num_before + self.step_length,
        f'{num_path - 1} steps of {before.page.num_slots} and one of '
        f'{self.step_length}')
    shared = prompts.cache, pages.join(before.page, is_used_RxU)
    shape = num_rows, self.branching
    is_child_RxA = self._is_child(path)
    start_R, written = self._write(params, shared, path, is_child_RxA)
    of_children = lambda x: x.reshape(*shape, *x.shape[1:])
    length_RxA = of_children(written.length)
    node = node_lib.Node(
        tokens=of_children(written.tokens),
        page=pages.cut(
            written.cache, shape, length_RxA,
            jnp.broadcast_to(start_R[:, None], shape)),
        hidden=of_children(written.hidden), score=of_children(
            written.log_prob if written.score is None else written.score))
    if written.score is not None:
      is_child_RxA &= node.score > -jnp.inf
    is_terminal_RxA = of_children(written.is_terminal)
    value_RxA, reward_RxA, state_key, is_legal_RxA = self._judge(
        params, prompts, path, node)
    if self.has_attempts:
      is_over_RxA = path.length[:, None] == num_path
      if self.outcome is not None:
        is_over_RxA |= reward_RxA > 0
      is_terminal_RxA &= is_over_RxA
    return base.Expansion(
        embedding=node, log_prob=of_children(written.log_prob),
        value=value_RxA, reward=jnp.where(is_terminal_RxA, reward_RxA, 0.0),
        is_terminal=is_terminal_RxA,
        is_valid=is_child_RxA & is_legal_RxA, num_tokens=length_RxA,
        num_passes=of_children(written.num_passes),
        step_key=node_lib.hash_tokens(node.tokens, length_RxA),
        state_key=state_key)

  def _is_child(self, path) -> jax.Array:
    """Children to write, [R, A] bool; the others take no token."""
    num_children_R = jnp.full(len(path.length), self.branching, jnp.int32)
    if path.num_children is not None:
      num_children_R = path.num_children
    num_children_R = jnp.where(path.length > 0, num_children_R, 0)
    return jnp.arange(self.branching)[None] < num_children_R[:, None]

  def _write(
      self, params, shared, path, is_child_RxA
  ) -> tuple[jax.Array, siblings_lib.Writing]:
    """Positions where the steps start [R], and all children, ended."""
    leaf = jax.tree.map(
        lambda x: node_lib.last(x, path.length),
        path.embeddings.replace(tokens=None, page=path.embeddings.page.replace(
            keys=None, values=None)))
    repeat = lambda x: jnp.repeat(x, self.branching, axis=0)
    places = compaction.Places(
        start=repeat(leaf.page.end), is_first=repeat(path.length == 1),
        keys=jax.vmap(_fold, (None, 0), 1)(
            path.keys, jnp.arange(self.branching)).reshape(-1), shared=shared)
    num_children = len(places.start)
    is_live_C, score_C = is_child_RxA.reshape(-1), None
    if self.siblings == 'without_replacement':
      is_live_C, score_C = siblings_lib.begin(is_child_RxA, path.keys)
    state = siblings_lib.Writing(
        step=jnp.zeros((), jnp.int32), is_live=is_live_C, score=score_C,
        is_terminal=jnp.zeros(num_children, bool),
        has_text=jnp.zeros(num_children, bool),
        tokens=jnp.full(
            (num_children, self.step_length), self.pad_id, jnp.int32),
        length=jnp.zeros(num_children, jnp.int32),
        num_passes=jnp.zeros(num_children, jnp.int32),
        log_prob=jnp.zeros(num_children, jnp.float32),
        hidden=repeat(leaf.hidden),
        cache=cache_lib.create(self.config, num_children, self.step_length))
    have_ended = lambda is_live_C: ~jnp.any(is_live_C)
    if not self.is_compacted or score_C is not None:
      return leaf.page.end, self._write_until(
          have_ended, params, places, state, is_child_RxA)
    state = self._write_until(
        compaction.fits, params, places, state, is_child_RxA)
    rows_PxH = compaction.choose(state.is_live)
    some = self._write_until(
        have_ended, params, *compaction.take(places, state, rows_PxH),
        is_child_RxA)
    return leaf.page.end, compaction.put(state, rows_PxH, some)

  def _write_until(
      self, is_over: Callable[[jax.Array], jax.Array], params,
      places: compaction.Places, state: siblings_lib.Writing, is_child_RxA,
  ) -> siblings_lib.Writing:
    """More tokens in all rows, until it is over for those that are live."""
    return jax.lax.while_loop(
        lambda s: (s.step < self.step_length) & ~is_over(s.is_live),
        lambda s: self._write_token(params, places, s, is_child_RxA), state)

  def _write_token(
      self, params, places: compaction.Places, state: siblings_lib.Writing,
      is_child_RxA,
  ) -> siblings_lib.Writing:
    """One more token in every row."""
    logits_CxV = transformer.read_out(
        self.config, params, state.hidden[:, None]).logits[:, 0]
    keys_C = _fold(places.keys, state.step)
    if state.score is None:
      tokens_C, log_probs_C = decode.sample(logits_CxV, keys_C, self.sampling)
    else:
      state, tokens_C, log_probs_C = siblings_lib.choose(
          state, logits_CxV, keys_C, self.sampling, is_child_RxA)
    tokens_C = jnp.where(state.is_live, tokens_C, self.pad_id)
    hidden_Cx1xD, cache = transformer.decode_hidden(
        self.config, params, tokens_C[:, None], state.cache,
        positions_BxL=(places.start + state.step)[:, None],
        shared=places.shared)
    return self._record(
        state, tokens_C, log_probs_C, hidden_Cx1xD[:, 0], cache,
        is_opening_C=places.is_first & (state.step == 0))

  def _record(self, state, tokens_C, log_probs_C, hidden_CxD, cache, *,
              is_opening_C):
    """The state with one more token in every child that has not ended."""
    is_live_C = state.is_live
    is_eos_C = decode.is_one_of(tokens_C, self.eos_ids)
    has_text_C = state.has_text | ~decode.is_one_of(tokens_C, self.blank_ids)
    is_end_C = has_text_C & decode.is_one_of(tokens_C, self.delimiter_ids)
    if self.has_opening:
      is_end_C &= ~is_opening_C
    is_end_C |= is_eos_C
    return state.replace(
        step=state.step + 1, is_live=is_live_C & ~is_end_C,
        is_terminal=state.is_terminal | (is_live_C & is_eos_C),
        has_text=has_text_C,
        tokens=jax.lax.dynamic_update_slice(
            state.tokens, tokens_C[:, None], (0, state.step)),
        length=state.length + is_live_C, num_passes=state.num_passes + 1,
        log_prob=state.log_prob + jnp.where(is_live_C, log_probs_C, 0.0),
        hidden=jnp.where(is_live_C[:, None], hidden_CxD, state.hidden),
        cache=cache)

  def _judge(self, params, prompts, path, node):
    """Values, rewards [R, A], state keys, who is legal, of the children."""
    texts = node_lib.texts_of_children(
        path, node, prompts.problems, self.pad_id)
    if self.value is None:
      value_RxA = transformer.read_out(
          self.config, params, node.hidden).values
    else:
      value_RxA = texts.each(self.value, jnp.float32)
    reward_RxA, state_key = value_RxA, None
    is_legal_RxA = jnp.ones(value_RxA.shape, bool)
    if self.outcome is not None:
      reward_RxA = texts.each(self.outcome, jnp.float32)
    if self.state_key is not None:
      state_key = texts.each(self.state_key, jnp.uint32)
    if self.is_legal is not None:
      is_legal_RxA = texts.each(self.is_legal, bool)
    return value_RxA, reward_RxA, state_key, is_legal_RxA


_fold = jax.vmap(jax.random.fold_in, (0, None))
