# SPDX-License-Identifier: Apache-2.0
"""Counts compilations, so that a data-dependent recompile is seen at once."""

import jax

_EVENT = '/jax/core/compile/backend_compile_duration'
_totals = {'programs': 0, 'seconds': 0.0}


def _listen(event: str, seconds: float, **_) -> None:
  if event == _EVENT:
    _totals['programs'] += 1
    _totals['seconds'] += seconds


jax.monitoring.register_event_duration_secs_listener(_listen)


def num_programs() -> int:
  """Programs compiled by this process so far."""
  return int(_totals['programs'])


def seconds() -> float:
  """Seconds this process has spent compiling."""
  return _totals['seconds']
