# SPDX-License-Identifier: Apache-2.0
"""Which part of a policy is trained, and what of it is saved.

  all         every parameter
  value_head  the value head
  lora        a low-rank adapter of all projections, and the value head

Of the last two the rest is the base: a policy that stays as it is, an argument
of every step, not in the state and not in a checkpoint.
"""

import dataclasses

from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import lora
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib

PARTS = ('all', 'value_head', 'lora')
_HEAD = 'value_head'


@dataclasses.dataclass(frozen=True)
class Part:
  """Settings of what is trained, and the functions that follow."""

  part: str = config_lib.setting(choices=PARTS)
  rank: int = config_lib.setting(low=1)  # of lora
  alpha: float = config_lib.setting(above=0.0)  # of lora: counts alpha / rank

  @property
  def has_base(self) -> bool:
    """Whether there is a rest that is not trained."""
    return self.part != 'all'

  @property
  def num_passes(self) -> float:
    """How much a step costs, in forward passes: matrices that stay have no
    gradient of their own, and behind a head alone nothing goes back."""
    return {'all': 3.0, 'value_head': 1.0, 'lora': 2.0}[self.part]

  def init(
      self, model: model_config.ModelConfig, rng: types.PRNGKey
  ) -> types.Params:
    """Makes new parameters of the part, boxed; as `transformer.init`."""
    if self.part == 'all':
      return transformer.init(model, rng)
    made = {}
    if model.value_head != 'none':
      made[_HEAD] = transformer.init(model, rng)[_HEAD]
    if self.part == 'lora':
      made |= lora.init(model, rng, self.rank)
    return made

  def begin(self, fresh: types.Params, start: types.Params) -> types.Params:
    """Takes what a start has of the part; an adapter is new.

    Args:
      fresh: unboxed, of `init`.
      start: all parameters of the policy that training starts from.
    """
    taken = start if self.part == 'all' else {
        key: start[key] for key in fresh if key == _HEAD}
    return fresh | taken

  def base(self, start: types.Params) -> types.Params:
    """Returns what of a start is needed besides the part."""
    return {} if self.part == 'all' else {
        key: value for key, value in start.items() if key != _HEAD}

  def whole(
      self, base: types.Params, trained: types.Params, *,
      is_shape: bool = False
  ) -> types.Params:
    """Puts base and part together, as the functions of a model take them.

    `is_shape`: they are shapes, which cannot be scaled.
    """
    head = {key: trained[key] for key in trained if key == _HEAD}
    if self.part != 'lora':
      return base | (head if self.has_base else trained)
    return lora.join(base, _adapter(trained), None if is_shape else (
        self.alpha / self.rank)) | head

  def merged(
      self, start: types.Params, trained: types.Params) -> types.Params:
    """Makes the parameters of a model without an adapter."""
    whole = start | {key: trained[key] for key in trained if key == _HEAD}
    if self.part != 'lora':
      return whole
    return lora.merge(whole, _adapter(trained), self.alpha / self.rank)


ALL = Part('all', 1, 1.0)


def _adapter(trained: types.Params) -> types.Params:
  return {key: trained[key] for key in trained if key != _HEAD}
