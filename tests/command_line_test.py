# SPDX-License-Identifier: Apache-2.0
"""Flags and overrides: what is read, and the one line for what is wrong."""

import pathlib
import subprocess
import sys

from gcsfs import retry
import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot.runtime import files
from meta_cot.settings import command_line
from meta_cot.settings import config as config_lib

CONFIG = '''
from ml_collections import config_dict

VARIANTS = ('tiny', 'large')


def get_config(variant=''):
  config = config_dict.ConfigDict()
  config.seed = 0
  config.name = 'run'
  config.resume = False
  config.limit = None
  config.width = config_dict.placeholder(int)
  config.optimizer = config_dict.ConfigDict(
      dict(learning_rate=1e-3, betas=(0.9, 0.99), milestones=(10, 20)))
  config.stages = ('traces', 'sft')
  config.extra = ()
  config.prompts = ('', )
  config.pairs = ((1, 2),)
  config.widths = config_dict.FieldReference(4, field_type=object)
  if variant == 'tiny':
    config.seed = 7
  return config
'''


@pytest.fixture(name='file', scope='module')
def _file(tmp_path_factory: pytest.TempPathFactory) -> str:
  path = tmp_path_factory.mktemp('configs') / 'sums.py'
  path.write_text(CONFIG)
  return str(path)


def _parse(file: str, *overrides: str) -> command_line.Arguments:
  return command_line.parse(
      [f'--config={file}', '--workdir=runs/x', *overrides])


def test_reads_config_workdir_and_stages(file):
  config, workdir, stages = _parse(f'{file}:tiny', '--stages=traces,rl')
  assert config.seed == 7
  assert config.is_locked
  assert config.optimizer.is_locked
  assert workdir == 'runs/x'
  assert stages == ('traces', 'rl')
  assert _parse(file).config.seed == 0
  assert _parse(file).stages is None


@pytest.mark.parametrize('override, key, value', [
    ('--config.seed=5', 'seed', 5),
    ('-config.seed=-5', 'seed', -5),
    ('--config.name=1', 'name', '1'),
    ('--config.name=a=b', 'name', 'a=b'),
    ('--config.resume', 'resume', True),
    ('--config.resume=true', 'resume', True),
    ('--config.resume=0', 'resume', False),
    ('--noconfig.resume', 'resume', False),
    ('--config.limit=3', 'limit', 3),
    (f'--config.limit={10**400}', 'limit', 10**400),
    ('--config.limit=0.5', 'limit', 0.5),
    ('--config.limit=abc', 'limit', 'abc'),
    ('--config.limit=None', 'limit', None),
    ('--config.width=3', 'width', 3),
    ('--config.seed=None', 'seed', None),
    ('--config.optimizer.learning_rate=1', 'optimizer.learning_rate', 1.0),
    ('--config.optimizer.learning_rate=3e-4', 'optimizer.learning_rate', 3e-4),
    ('--config.optimizer.betas=(0.5, 1)', 'optimizer.betas', (0.5, 1.0)),
    ('--config.optimizer.betas=0.5,0.6', 'optimizer.betas', (0.5, 0.6)),
    ('--config.optimizer.betas=0.5', 'optimizer.betas', (0.5,)),
    ('--config.optimizer.betas=()', 'optimizer.betas', ()),
    ('--config.optimizer.milestones=[3]', 'optimizer.milestones', (3,)),
    ('--config.optimizer.milestones=(3,)', 'optimizer.milestones', (3,)),
    ('--config.stages=rl', 'stages', ('rl',)),
    ("--config.stages=('rl', \"sft\")", 'stages', ('rl', 'sft')),
    ('--config.stages=1,2', 'stages', ('1', '2')),
    ('--config.stages=', 'stages', ()),
    ('--config.stages=a/b-c,gs://x,01', 'stages', ('a/b-c', 'gs://x', '01')),
    ("--config.prompts=('a,b',)", 'prompts', ('a,b',)),
    ("--config.prompts='a, b', c", 'prompts', ('a, b', 'c')),
    ("--config.prompts=('it\\'s', '(')", 'prompts', ("it's", '(')),
    ('--config.pairs=((1, 2), (3, 4))', 'pairs', ((1, 2), (3, 4))),
    ('--config.pairs=(1,2),(3,4)', 'pairs', ((1, 2), (3, 4))),
    ('--config.widths=(32, 8, 1)', 'widths', (32, 8, 1)),
    ('--config.widths=32,8', 'widths', (32, 8)),
    ('--config.widths=8', 'widths', 8),
    ('--config.widths=(8,)', 'widths', (8,)),
    ("--config.extra=('a', (1, 'b,c'))", 'extra', ('a', (1, 'b,c'))),
    ('--config.extra=1,a,None', 'extra', (1, 'a', None)),
])
def test_overrides_take_the_type_of_their_field(file, override, key, value):
  config = _parse(file, override).config
  for name in key.split('.'):
    config = config[name]
  assert config == value
  assert type(config) is type(value)


def test_values_may_follow_after_a_space_and_the_last_one_wins(file):
  config = command_line.parse([
      '--config.seed', '-3', '--config', file, '--workdir', 'w',
      '--config.seed', '4']).config
  assert config.seed == 4


@pytest.mark.parametrize('override, words', [
    ('--config.optimizer.learning_rat=1',
     ['config.optimizer.learning_rat:', 'config.optimizer.learning_rate?']),
    ('--config.zzz=1', ['config.zzz:', 'seed', 'optimizer']),
    ('--config.seed=abc', ["config.seed: got 'abc'", 'integer']),
    ('--config.seed=1.5', ["config.seed: got '1.5'", 'integer']),
    ('--config.seed=', ["config.seed: got ''", 'integer']),
    ('--config.seed', ['config.seed', 'needs a value', 'int']),
    ('--config.width=x', ["config.width: got 'x'", 'integer']),
    ('--config.resume=maybe', ["config.resume: got 'maybe'", 'true or false']),
    ('--noconfig.seed', ['noconfig.seed', 'needs a value']),
    ('--noconfig.resume=1', ['noconfig.resume']),
    ('--config.optimizer.learning_rate=nan', ["got 'nan'", 'finite']),
    ('--config.optimizer.betas=(0.5,x)',
     ["config.optimizer.betas[1]: got 'x'", 'finite number']),
    ('--config.optimizer.betas=inf', ["betas[0]: got 'inf'", 'finite']),
    ("--config.prompts=('a,b", ["config.prompts: got", "('a,b', 'c')"]),
    ('--config.optimizer=1',
     ['config.optimizer:', 'group', 'config.optimizer.learning_rate']),
    ('--config.seed.x=1', ['config.seed:', 'not a group', "'x'"]),
    ('--stages=', ['--stages', 'nothing']),
    ('--stage=rl', ['--stage:', '--stages?']),
    ('--batch=8', ['--batch:', '--config=', '--workdir=', '--stages=']),
    ('--workdir', ['--workdir', 'no value']),
    ('rl', ["'rl'", 'unexpected', '--stages=']),
])
def test_wrong_arguments_are_answered_by_one_line(file, override, words):
  with pytest.raises(config_lib.ConfigError) as error:
    _parse(file, override)
  message = str(error.value)
  assert '\n' not in message
  for word in words:
    assert word in message


def _load_error(spec: str) -> str:
  with pytest.raises(config_lib.ConfigError) as error:
    command_line.parse([f'--config={spec}', '--workdir=w'])
  return str(error.value)


def test_unknown_variant_names_the_nearest(file):
  message = _load_error(f'{file}:tny')
  assert "'tny'" in message
  assert "did you mean 'tiny'?" in message
  assert 'large' in message


def test_missing_file_names_those_beside_it(file):
  message = _load_error(file.replace('sums', 'sms'))
  assert f"did you mean '{pathlib.Path(file).as_posix()}'" in message


def test_missing_flags_are_named():
  with pytest.raises(config_lib.ConfigError, match='--config: missing'):
    command_line.parse(['--workdir=w'])


def test_missing_workdir_is_named(file):
  for empty in ([], ['--workdir=']):
    with pytest.raises(config_lib.ConfigError, match='--workdir: missing'):
      command_line.parse([f'--config={file}', *empty])


_GET = 'from ml_collections import config_dict\ndef get_config(variant):\n  '


@pytest.mark.parametrize('text, words', [
    ('x = 1\n', ['must define get_config']),
    ('def get_config(variant):\n  return {}\n', ['ConfigDict']),
    ('def get_config(variant):\n  raise ValueError("no such size")\n',
     [".py:2, variant 'tiny':", 'no such size']),
    ('def f(:\n', ['.py:1:', 'SyntaxError']),
    ('import json\nimport no_such_module\n', ['.py:2,', 'no_such_module']),
    (_GET + 'return nowhere\n', ['.py:3,', "'nowhere' is not defined"]),
    (_GET + 'c = config_dict.ConfigDict(dict(n=5))\n  c.n = 5e3\n',
     ['.py:4,', 'TypeError']),
    (_GET + 'c = config_dict.ConfigDict(dict(optimizer=dict(rate=1.0)))\n\n'
     '  c.optimiser.rate = 2.0\n', ['.py:5,', 'optimiser', '"optimizer"']),
    ('x = 1\ny = "\0"\n', ['.py:2:', 'NUL byte', 'UTF-8']),
    ('x = 1\n'.encode('utf-16'), ['.py:1:', 'UTF-8']),
    (b'x = 1\ny = "\xff"\n', ['.py:', 'utf-8']),
    ('def get_config():\n  pass\n', ["no variants; got 'tiny'"]),
])
def test_files_that_are_no_configs(tmp_path, text, words):
  path = tmp_path / 'wrong.py'
  path.write_bytes(text.encode() if isinstance(text, str) else text)
  message = ' '.join(_load_error(f'{path}:tiny').split())
  assert message.startswith(f'--config: {tmp_path}/wrong.py')
  for word in words:
    assert word in message
  assert 'None' not in message


def test_the_last_colon_behind_py_separates_the_variant(file, tmp_path):
  for folder in ('a:b', 'a.py:b'):
    (tmp_path / folder).mkdir()
    copy = tmp_path / folder / 'sums.py'
    copy.write_text(CONFIG)
    assert _parse(f'{copy}:tiny').config.seed == 7
    assert _parse(str(copy)).config.seed == 0


def test_a_name_that_is_too_long_is_one_short_line():
  assert len(_load_error('x' * 5_000 + '.py')) < 200


def test_a_config_without_variants_is_run_and_helpers_are_not_offered():
  base = pathlib.Path(__file__).parents[1] / 'configs' / 'base.py'
  assert command_line.parse(
      [f'--config={base}', '--workdir=w']).config.seed == 0
  message = _load_error('configs/bass.py')
  assert 'configs/base.py' in message and 'configs/models.py' not in message


def test_shipped_configs_are_found_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = command_line.parse(
      ['--config=configs/countdown.py:tiny', '--workdir=w']).config
  assert config.seed == 0
  message = _load_error('configs/countdwn.py:tiny')
  assert str(tmp_path) in message and 'configs/countdown.py' in message
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'countdown.py').write_text(CONFIG)
  config = command_line.parse(
      ['--config=configs/countdown.py:tiny', '--workdir=w']).config
  assert config.seed == 7  # the nearer one


def test_other_extensions_are_refused(tmp_path):
  (tmp_path / 'config.yaml').write_text('seed: 1')
  assert 'must be a .py file' in _load_error(str(tmp_path / 'config.yaml'))


def test_exit_code_and_stderr_of_a_process(file):
  program = (
      'import sys\n'
      'from meta_cot.settings import command_line\n'
      'command_line.run(command_line.parse, "usage: it")\n')
  run = lambda *arguments: subprocess.run(
      [sys.executable, '-c', program, *arguments], capture_output=True,
      text=True, check=False, cwd=pathlib.Path(__file__).parents[1])
  wrong = run(f'--config={file}', '--workdir=w', '--config.seed=abc')
  assert wrong.returncode == 2
  assert wrong.stdout == ''
  assert wrong.stderr.count('\n') == 1
  assert wrong.stderr.startswith("error: config.seed: got 'abc'")
  right = run(f'--config={file}', '--workdir=w')
  assert (right.returncode, right.stderr) == (0, '')
  usage = run('--help')
  assert (usage.returncode, usage.stdout) == (0, 'usage: it\n')


@pytest.mark.parametrize('streams, argument, code, words', [
    ('2>&-', '--zzz=1', 2, ''),
    ('<&- >&- 2>&-', '--zzz=1', 2, ''),
    ('2>/dev/full', '--zzz=1', 2, ''),
    ('2>&1 >/dev/null | true', '--zzz=1', 2, ''),
    ('>/dev/full', '--help', 2, 'error: stdout: No space left on device'),
    ('| true', '--help', 141, ''),
    ('>&-', '--help', 0, ''),
])
def test_exit_codes_where_nobody_reads(streams, argument, code, words):
  program = (
      'import sys\n'
      'from meta_cot.settings import command_line\n'
      'sys.argv = ["it", sys.argv[1]]\n'
      'command_line.run(command_line.parse, "usage: it\\n" * 9_999)\n')
  done = subprocess.run(
      ['bash', '-c', f'"$0" -c "$1" {argument} {streams}; '
       'exit "${PIPESTATUS[0]}"', sys.executable, program],
      capture_output=True, text=True, check=False,
      cwd=pathlib.Path(__file__).parents[1])
  assert done.returncode == code
  assert done.stderr.startswith(words) and done.stderr.count('\n') <= 1


def test_a_closed_stream_does_not_become_a_file(tmp_path):
  program = (
      'import os, sys\n'
      'from meta_cot.settings import command_line\n'
      'def main(argv):\n'
      f'  with open({str(tmp_path / "file")!r}, "w") as f:\n'
      '    os.write(2, b"a word of a library")\n'
      '    print("a word", file=sys.stderr)\n'
      'command_line.run(main, "")\n')
  subprocess.run(
      ['bash', '-c', '"$0" -c "$1" <&- >&- 2>&-', sys.executable, program],
      check=True, cwd=pathlib.Path(__file__).parents[1])
  assert (tmp_path / 'file').read_text() == ''


@pytest.mark.parametrize('error, code, line', [
    (retry.HttpError({'code': 503, 'message': 'away'}), 1, 'the bucket: away'),
    (FileNotFoundError(2, 'No such file', 'w/a'), 2, 'w/a: No such file')])
def test_a_bucket_that_is_away_may_come_back(capsys, error, code, line):
  with pytest.raises(SystemExit) as ended:
    with command_line.one_line_errors(), files.named_errors():
      raise error
  assert ended.value.code == code
  assert capsys.readouterr().err.startswith(f'error: {line}')


@hypothesis.given(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(), st.lists(st.integers()).map(tuple),
    st.text(st.characters(exclude_categories=['C'])))
def test_values_survive_the_trip_through_text(
    file, seed, rate, flag, milestones, name):
  hypothesis.assume(name != 'None')
  config = _parse(
      file, f'--config.seed={seed}', f'--config.resume={flag}',
      f'--config.optimizer.learning_rate={rate!r}', f'--config.name={name}',
      f'--config.optimizer.milestones={milestones!r}').config
  assert (config.seed, config.resume, config.name) == (seed, flag, name)
  assert config.optimizer.learning_rate == rate
  assert config.optimizer.milestones == milestones
