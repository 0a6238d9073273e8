# SPDX-License-Identifier: Apache-2.0
"""launch/tpu.sh: settings, create, setup; see tests/fake_cloud.py."""

from collections.abc import Iterator
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests import fake_cloud

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / 'tests' / 'golden' / 'tpu_dry_run.txt'


@pytest.fixture(scope='module')
def template(tmp_path_factory: pytest.TempPathFactory) -> fake_cloud.Cloud:
  return fake_cloud.ready_cloud(tmp_path_factory.mktemp('template'))


@pytest.fixture
def cloud(
    tmp_path: pathlib.Path, template: fake_cloud.Cloud,
) -> Iterator[fake_cloud.Cloud]:
  made = fake_cloud.Cloud(tmp_path, template)
  yield made
  made.close()


def _dry_run(cloud: fake_cloud.Cloud, *flags: str) -> str:
  lines = []
  for command in ('create', 'setup', 'run', 'status', 'logs', 'stop', 'resume',
                  'delete'):
    lines += [f'$ launch/tpu.sh {command} --dry-run {" ".join(flags)}',
              cloud.run(command, '--dry-run', *flags).stdout]
  return '\n'.join(lines)


def test_dry_run_prints_the_commands_and_runs_none(cloud, request):
  found = '\n'.join((
      _dry_run(cloud, '--num-slices=2', '--accelerator-type=v5litepod-16',
               '--spot=1', '--valid-until-duration=6h'),
      _dry_run(cloud, '--mode=vm', '--accelerator-type=v6e-8',
               '--ssh-route=iap', '--network=pods', '--reserved=1',
               '--overrides=--config.seed=1 --stages=sft')))
  assert not (cloud.state / 'calls.jsonl').exists()
  assert not (cloud.repository / 'runs').exists()
  if os.environ.get('UPDATE_GOLDEN') == '1':
    GOLDEN.write_text(found)
  assert found == GOLDEN.read_text(), (
      'the commands changed; look at them, then run this test once with '
      'UPDATE_GOLDEN=1.')


@pytest.mark.parametrize('message,advice', [
    ('Quota limit \'TPUV5PPerProjectPerZone\' has been exceeded. Limit: 0',
     'ask for quota of v5p-16 in us-east5-a'),
    ('PERMISSION_DENIED: Permission tpu.nodes.create denied',
     'roles/tpu.admin in project my-project'),
    ('Cloud TPU API has not been used in project 1 before or it is disabled',
     'gcloud services enable tpu.googleapis.com --project=my-project'),
    ('INVALID_ARGUMENT: unknown AcceleratorType',
     'gcloud compute tpus accelerator-types list --zone=us-east5-a'),
])
def test_refused_create_says_what_to_do(cloud, message, advice):
  cloud.scenario(create_errors=[message])
  errors = cloud.run('create', code=1).stderr
  assert message in errors
  assert advice in errors.splitlines()[-1]


def test_failed_request_shows_googles_message(cloud):
  cloud.scenario(queue=['PROVISIONING'],
                 queue_error='Quota limit exceeded: TPUs in region')
  errors = cloud.run('create', code=1).stderr
  assert 'Quota limit exceeded: TPUs in region' in errors
  assert 'ask for quota' in errors


def test_full_zone_is_asked_again(cloud):
  full = 'There is no more capacity in the zone "us-east5-a"'
  cloud.scenario(create_errors=[full, full])
  out = cloud.run('create', '--mode=vm').stdout
  assert out.count('no capacity in us-east5-a') == 2
  assert len(cloud.calls('tpu-vm', 'create')) == 3


def test_queue_that_never_moves_ends_the_wait(cloud):
  cloud.scenario(queue=['WAITING_FOR_RESOURCES'] * 100)
  errors = cloud.run('create', '--wait-seconds=0.6', code=1).stderr
  assert 'WAITING_FOR_RESOURCES after 0.6 s' in errors
  assert 'launch/tpu.sh delete' in errors


def test_ssh_that_never_answers_is_an_error(cloud):
  cloud.run('create')
  cloud.scenario(ssh_refused={'pod/1': -1})
  errors = cloud.run('setup', code=1).stderr
  assert 'return code [255]' in errors
  assert errors.splitlines()[-1] == (
      'error: no ssh connection to rank 1 (node pod, worker 1).')
  cloud.scenario(ssh_refused={'pod/0': -1})
  assert 'port 22' in cloud.run('setup', code=1).stderr
  # The TPU may be well, so resume deletes nothing.
  cloud.run('resume', code=1)
  assert not cloud.calls('delete')


def test_setup_that_fails_on_one_worker(cloud):
  cloud.run('create')
  (cloud.state / 'no_pip').write_text('pod/1')
  errors = cloud.run('setup', code=1).stderr
  assert 'ERROR: No matching distribution found for jax[tpu]' in errors
  assert errors.splitlines()[-1].startswith(
      'error: setup failed on rank 1 (node pod, worker 1) with code 1')
  (cloud.state / 'no_pip').unlink()
  cloud.run('setup')


def test_local_workdir_is_refused_before_anything_costs(cloud):
  for command in ('create', 'run', 'resume'):
    errors = cloud.refused(command, '--workdir=runs/a', code=2)
    assert '--workdir: WORKDIR=runs/a is a local folder' in errors
    assert '2 workers' in errors
  assert not (cloud.state / 'calls.jsonl').exists()
  cloud.run('create', '--workdir=/mnt/runs', '--shared-workdir=1')
  cloud.run('delete')
  cloud.scenario(workers=1)
  alone = cloud.run('create', '--workdir=runs/a', '--accelerator-type=v5p-8')
  assert "on the VM's own disk" in alone.stderr


@pytest.mark.parametrize('changes,wanted', [
    ({'ZONE': 'somewhere'}, "launch/tpu.env:3: ZONE='somewhere'; must be a "
     'zone such as us-east5-a.'),
    ({'ZON': 'us-east5-a'}, "unknown key 'ZON'; the keys are PROJECT ZONE"),
    ({'WORKDIR': None}, 'launch/tpu.env: WORKDIR is missing; add WORKDIR='),
    ({'NAME': '"pod'}, 'launch/tpu.env:4: NAME: the quote is not closed.'),
    ({'NAME': '$(touch evil)'}, "NAME='$(touch evil)'; must be small letters"),
    ({'ACCELERATOR_TYPE': 'h100-8'}, 'must be v5litepod-N, v5p-N'),
    ({'SPOT': '1', 'RESERVED': '1'}, 'RESERVED=1 does not go with SPOT=1'),
    ({'NUM_SLICES': '2', 'MODE': 'vm'}, 'MODE=vm makes one slice'),
    ({'OVERRIDES': 'seed=1'}, 'must be flags of meta_cot.main'),
    ({'MAX_RESTARTS': '-1'}, "MAX_RESTARTS='-1'; must be a number >= 0."),
])
def test_wrong_settings(cloud, changes, wanted):
  cloud.write_settings(**changes)
  assert wanted in cloud.refused('create', code=2)
  assert not (cloud.state / 'calls.jsonl').exists()
  assert not (cloud.repository / 'evil').exists()


def test_wrong_lines_and_arguments(cloud):
  path = cloud.repository / 'launch' / 'tpu.env'
  path.write_text('PROJECT=my-project\nexport ZONE=us-east5-a\n')
  errors = cloud.refused('create', code=2)
  assert "tpu.env:2: 'export ZONE=us-east5-a' is not KEY=VALUE" in errors
  path.write_text('PROJECT=my-project\nPROJECT=other-project\n')
  errors = cloud.refused('create', code=2)
  assert 'tpu.env:2: PROJECT is set already in line 1' in errors
  cloud.write_settings()
  wrong = {
      ('create', '--zone=x'): "--zone: ZONE='x'",
      ('create', '--colour=red'): "--colour: unknown key 'COLOUR'",
      ('create', 'setup'): 'two commands: create and setup',
      ('start',): "'start': unknown argument",
      (): 'no command',
      ('logs', '--rank=a'): '--rank=a: must be a number',
      ('setup', '--', '--x=1'): "'--' goes with run and resume",
      ('create', '--settings=none.env'): '--settings=none.env: no such file',
  }
  for words, message in wrong.items():
    assert message in cloud.refused(*words, code=2)


def test_flags_win_over_environment_over_file(cloud):
  cloud.environment['META_COT_TPU_ZONE'] = 'us-east5-b'
  assert '--zone=us-east5-b' in cloud.run('delete', '--dry-run').stdout
  assert '--zone=us-east5-c' in cloud.run(
      'delete', '--dry-run', '--zone=us-east5-c').stdout
  cloud.environment['META_COT_TPU_ZON'] = 'us-east5-b'
  errors = cloud.refused('delete', '--dry-run', code=2)
  assert "environment META_COT_TPU_ZON: unknown key 'ZON'" in errors


def test_only_committed_code_is_packed(cloud):
  cloud.run('create')
  (cloud.repository / 'launch' / 'README.md').write_text('changed')
  (cloud.repository / 'new file').write_text('new')
  errors = cloud.refused('setup', code=1)
  assert '(2 files)' in errors
  assert '--allow-dirty' in errors
  out = cloud.run('setup', '--allow-dirty').stdout
  version = f'{cloud.git("rev-parse", "HEAD")}-dirty-'
  assert version in out
  code = cloud.state / 'homes' / 'pod' / '1' / 'meta_cot' / 'code'
  assert (code / 'new file').read_text() == 'new'
  assert (code / 'launch' / 'README.md').read_text() == 'changed'
  assert (code / 'CODE_VERSION').read_text().startswith(version)


def test_example_settings_are_complete(cloud):
  text = (ROOT / 'launch' / 'tpu.env.example').read_text()
  (cloud.repository / 'launch' / 'tpu.env').write_text(text)
  out = cloud.run('create', '--dry-run').stdout
  assert 'create meta-cot-a --accelerator-type=v5p-32' in out
  # Every key is there, and what is commented out is the default.
  active = text.replace('\n#', '\n')
  declared = subprocess.run(
      ['bash', '-c', 'source launch/tpu/settings.sh; declare_settings; '
       'for k in "${SETTING_KEYS[@]}"; do echo "$k=${SETTING[$k]}"; done'],
      cwd=ROOT, check=True, capture_output=True, text=True).stdout
  for line in declared.splitlines():
    key, _, default = line.partition('=')
    assert f'\n{key}=' in active, key
    if default != '(required)':
      assert f'\n#{line}\n' in text, line


def test_scripts_pass_shellcheck():
  # launch/tpu.sh brings in what it sources.
  scripts = [ROOT / 'test.sh', ROOT / 'launch' / 'tpu' / 'worker.sh',
             ROOT / 'launch' / 'tpu' / 'pod.sh',
             ROOT / 'launch' / 'slurm.sbatch', *ROOT.glob('launch/*.sh'),
             *(p for p in ROOT.glob('.ci/*') if p.is_file())]
  own = pathlib.Path(sys.executable).with_name('shellcheck')
  result = subprocess.run(
      [own if own.exists() else 'shellcheck', '--external-sources',
       *sorted(scripts)],
      cwd=ROOT, check=False, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout


def test_create_reads_the_config_before_anything_is_paid_for(
    cloud, monkeypatch):
  monkeypatch.setitem(cloud.environment, 'META_COT_PYTHON', sys.executable)
  monkeypatch.setitem(cloud.environment, 'PYTHONPATH', str(fake_cloud.ROOT))
  shutil.rmtree(cloud.repository / 'meta_cot')  # else it is found there
  for flag, more, words in (
      ('--config=configs/countdown.py:podd', ['--dry-run'],
       "did you mean 'pod'?"),
      ('--overrides=--config.sft.batch_size=0', [],
       'sft.batch_size: got 0')):
    result = cloud.run('create', flag, *more, code=2)
    assert words in result.stderr and result.stderr.count('\n') == 1
  assert not (cloud.state / 'calls.jsonl').exists()  # nothing was asked for
  assert 'create' in cloud.run('create', '--dry-run').stdout
