# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint belongs to the run that wants to continue from it."""

from typing import Any

import jax

from meta_cot.settings import config as config_lib

_NUM_SHOWN = 3


def check_config(
    saved: dict[str, Any], now: dict[str, Any], step: int) -> None:
  """Raises UserError with the first settings that differ.

  Args:
    saved: settings of the checkpoint that are bound (`config.bound`).
    now: those of the run.
    step: for the message.
  """
  differences = config_lib.differences(
      saved, now, where=f'in checkpoint step {step}')
  _refuse('settings differ from those of the checkpoint', differences)


def check_tokenizer(saved: str, now: str, step: int) -> None:
  """Raises UserError if the fingerprints of the tokenizers differ."""
  if saved != now:
    _refuse('the tokenizer is not that of the checkpoint', [
        f'{saved[:12]} in checkpoint step {step}, {now[:12]} now'])


def check_arrays(saved: Any, now: Any, step: int) -> None:
  """Raises UserError with the first arrays whose shape or type differ.

  Args:
    saved: tree of what the checkpoint holds, leaves with `shape` and `dtype`.
    now: tree of what it will be restored into.
    step: for the message.
  """
  theirs, mine = _arrays(saved), _arrays(now)
  shown = lambda arrays, name: arrays.get(name, 'absent')
  names = sorted(  # the optimiser's follow from the parameters
      theirs.keys() | mine.keys(), key=lambda n: (n.startswith('opt'), n))
  _refuse('arrays differ from those of the checkpoint', [
      f'{name}: {shown(theirs, name)} in checkpoint step {step}, '
      f'{shown(mine, name)} now'
      for name in names if shown(theirs, name) != shown(mine, name)])


def _refuse(what: str, differences: list[str]) -> None:
  if not differences:
    return
  more = len(differences) - _NUM_SHOWN
  tail = f'; and {more} more' if more > 0 else ''
  raise config_lib.UserError(
      f'{what} ({"; ".join(differences[:_NUM_SHOWN])}{tail}); continue with '
      'the same settings, or start in another --workdir.')


def _arrays(tree: Any) -> dict[str, str]:
  """'params/embed' -> 'float32 [97, 16]'."""
  described = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = '/'.join(_key(k) for k in path)
    described[name] = f'{leaf.dtype} {list(leaf.shape)}'
  return described


def _key(key: Any) -> str:
  """The name of one step into a tree, the same for every kind of node."""
  for attribute in ('key', 'name', 'idx'):
    if hasattr(key, attribute):
      return str(getattr(key, attribute))
  raise TypeError(f'{key!r}: not a key of a tree.')
