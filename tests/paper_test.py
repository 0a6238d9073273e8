# SPDX-License-Identifier: Apache-2.0
"""Configs of the paper's figures are whole; their runs are results."""

import importlib
import pathlib

import pytest

from configs import paper
from meta_cot.stages import experiment as experiment_lib

_NAMES = sorted(
    path.stem for pattern in ('figure*', 'ladder.py')
    for path in pathlib.Path(paper.__file__).parent.glob(pattern))


def test_there_is_one_for_every_figure():
  numbers = (10, 11, 16, 17, 19, 2, 20, 21, 23, 27, 29, 3, 30, 5, 6, 8, 9)
  assert _NAMES == [*(f'figure{number}' for number in numbers), 'ladder']


@pytest.mark.parametrize('name', _NAMES)
def test_every_variant_ends_with_its_figure(name):
  module = importlib.import_module(f'configs.paper.{name}')
  assert f'configs/paper/{name}.py' in module.__doc__
  for variant in module.VARIANTS:
    assert f'\n  {variant}  ' in module.__doc__
    experiment = experiment_lib.parse(module.get_config(variant))
    *_, last = experiment.chosen(None)
    shown = last.settings.stages
    assert set(shown) <= set(experiment.groups) and last.settings.title
    if last.settings.figure in ('turns', 'revised'):  # of episodes
      assert all(experiment.groups[name].settings.start for name in shown)
  with pytest.raises(ValueError, match='variant'):
    module.get_config('none')
