# SPDX-License-Identifier: Apache-2.0
"""Every setting of the shipped configs against its limits."""

from collections.abc import Iterator
import importlib

import ml_collections
import pytest

from meta_cot import main
from meta_cot.settings import config as config_lib

VALUES = (
    '-1', '0', '1', '-0.0', '0.5', '1e-45', '1e30', '1e39', '2147483647',
    '2147483648', '9' * 400, 'nan', 'inf', '-inf', '', 'None', 'x', 'é', '\0',
    'a' * 5000, '()', '(1,)', '(1,1)', "('a','b')", '((', "{'a':1}", 'True',
    '../..', '/no/such/file', '[1', '0x10', '1_000')


def _names(config: ml_collections.ConfigDict, path: str) -> Iterator[str]:
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from _names(value, f'{path}.{name}')
    else:
      yield f'{path}.{name}'


@pytest.mark.slow
@pytest.mark.parametrize('module, variant', [
    ('countdown', 'tiny'), ('erl2', 'tiny'), ('search', 'tiny'),
    ('maze', 'tiny'), ('game24', 'tiny'), ('loops', 'ts_llm_tiny')])
def test_a_wrong_value_is_one_line(module, variant, tmp_path):
  config = importlib.import_module(f'configs.{module}').get_config(variant)
  refused = accepted = 0
  for name in _names(config, 'config'):
    for value in VALUES:
      try:
        main.main([
            f'--config=configs/{module}.py:{variant}', f'--{name}={value}',
            f'--workdir={tmp_path}/w', '--check'])
        accepted += 1
      except config_lib.UserError as e:
        refused += 1
        assert any(place in str(e) for place in (
            'config', name.rpartition('.')[2], 'policy.json')), (name, value)
  print(f'{module}.py:{variant}: {accepted} accepted, {refused} refused')
  assert refused > accepted > 0
  assert not list(tmp_path.iterdir())
