# SPDX-License-Identifier: Apache-2.0
"""launch/tpu.sh runs a job: rehearsed with tests/fake_cloud.py."""

from collections.abc import Iterator
import pathlib
import signal
import time

import pytest

from tests import fake_cloud

# Preempted in its first jobs, once their first lines have been copied.
PREEMPTED = r'''
job=$(<../run/job)
logs=$FAKE_CLOUD/../clone/runs/pod/logs/$job
echo "rank $META_COT_PROCESS_ID works"
if ((10#$job <= TIMES)); then
  while [[ ! -s $logs/rank-000.log || ! -s $logs/rank-001.log ]]; do
    sleep 0.05
  done
  [[ $META_COT_PROCESS_ID == 1 ]] || touch "$FAKE_CLOUD/preempt"
  sleep 60
fi
echo finished
'''


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


def test_from_create_to_delete(cloud):
  cloud.scenario(queue=['WAITING_FOR_RESOURCES', 'PROVISIONING'])
  created = cloud.run('create').stdout
  states = [line.split()[-1] for line in created.splitlines()]
  assert states == [
      'us-east5-a', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ready']

  version = cloud.git('rev-parse', 'HEAD')
  assert version in cloud.run('setup').stdout
  assert sorted((cloud.state / 'pip').read_text().split()) == ['pod/0', 'pod/1']
  cloud.run('setup')  # nothing to install a second time
  assert len((cloud.state / 'pip').read_text().split()) == 2

  cloud.program(fake_cloud.COUNTING + 'env | grep -E "^(META|MEGA)" | sort\n')
  result = cloud.run('run', '--', '--config.seed=3')
  lines = result.stdout.splitlines()
  assert ('rank 0 starts with --config=configs/countdown.py:pod '
          '--workdir=gs://bucket/runs/a --config.seed=3') in lines
  assert 'step 3' in lines
  assert not any('rank 1' in line for line in lines)
  assert [line for line in cloud.log('001', 1).splitlines() if '=' in line][
      1:] == [
          f'META_COT_CODE_VERSION={version}',
          'META_COT_COORDINATOR=10.0.0.0:8482', 'META_COT_DISTRIBUTED=1',
          'META_COT_NUM_PROCESSES=2', 'META_COT_PROCESS_ID=1']

  status = cloud.run('status').stdout
  assert f'rank 1 (node pod, worker 1): ended:0, job 001, code {version}' in (
      status)
  assert 'step 3' in cloud.run('logs', '--rank=1').stdout
  followed = cloud.run('logs', '--rank=1', '--follow').stdout
  assert followed == cloud.log('001', 1)
  cloud.run('delete')
  assert 'does not exist' in cloud.run('delete').stdout
  assert cloud.calls('delete')[0] == [
      'compute', 'tpus', 'queued-resources', 'delete', 'pod', '--force',
      '--quiet', '--project=my-project', '--zone=us-east5-a']
  gone = cloud.refused('run', code=1)
  assert "does not exist; run 'launch/tpu.sh create'" in gone


def test_slices_are_numbered_and_connected(cloud):
  cloud.write_settings(
      NUM_SLICES='2', SPOT='1', ENV_LIBTPU_INIT_ARGS='"--a=1 --b=it\'s"')
  cloud.program('env | grep -E "^(META_COT_P|MEGA|LIBTPU)" | sort\n')
  cloud.run('create')
  cloud.run('setup')
  cloud.run('run')
  for rank in range(4):
    assert cloud.log('001', rank).splitlines() == [
        "LIBTPU_INIT_ARGS=--a=1 --b=it's",
        'MEGASCALE_COORDINATOR_ADDRESS=10.0.0.0:8080',
        'MEGASCALE_NUM_SLICES=2', f'MEGASCALE_SLICE_ID={rank // 2}',
        f'META_COT_PROCESS_ID={rank}']


def test_preemption_makes_the_tpu_again_and_continues(cloud):
  cloud.write_settings(SPOT='1', OVERRIDES='--config.seed=5')
  cloud.scenario(deleting=2)
  cloud.program(PREEMPTED.replace('TIMES', '2'))
  cloud.ready()
  version = cloud.git('rev-parse', 'HEAD')
  # What is committed later does not enter a run that goes on.
  (cloud.repository / 'later').touch()
  cloud.git('add', 'later')
  cloud.git('commit', '--quiet', '-m', 'later')
  out = cloud.run('run').stdout
  assert out.count('interrupted: ') == 2
  assert 'restart 2 of 2' in out
  assert out.count('rank 0 works') == 3
  assert len(cloud.calls('queued-resources', 'create')) == 2
  assert len(cloud.calls('queued-resources', 'delete')) == 2
  assert version in cloud.run('status').stdout
  # Logs of the lost VMs are kept.
  assert cloud.log('001', 1) == 'rank 1 works\n'
  assert cloud.log('003', 1) == 'rank 1 works\nfinished\n'


def test_preemptions_without_end_are_given_up(cloud):
  cloud.write_settings(SPOT='1', MAX_RESTARTS='1')
  cloud.program(PREEMPTED.replace('TIMES', '9'))
  cloud.ready()
  errors = cloud.refused('run', code=1)
  assert 'interrupted after 1 restarts (MAX_RESTARTS)' in errors
  assert "continue with 'launch/tpu.sh resume'" in errors
  # And resume does: a new TPU, the code, the same command.
  cloud.program(fake_cloud.COUNTING)
  assert 'step 3' in cloud.run('resume').stdout
  assert len(cloud.calls('queued-resources', 'create')) == 2


def test_host_shutdown_is_no_failure(cloud):
  """A rank that saves because its host said so runs again by itself."""
  cloud.program(r'''
((10#$(<../run/job) > 1)) || exit 75
echo finished
''')
  cloud.ready()
  out = cloud.run('run').stdout
  assert 'told to end, and saved' in out
  assert out.splitlines().count('finished') == 1
  assert not cloud.calls('create')


def test_refused_ssh_is_tried_again(cloud):
  cloud.run('create')
  cloud.scenario(ssh_refused={'pod/0': 2, 'pod/1': 2})
  cloud.run('setup')
  assert 'step 3' in cloud.run('run').stdout


def test_broken_connection_loses_no_line(cloud):
  cloud.scenario(drop_watch=2)
  cloud.program('for i in {1..60}; do echo "line $i"; sleep 0.02; done\n')
  cloud.ready()
  out = cloud.run('run').stdout
  wanted = [f'line {i}' for i in range(1, 61)]
  assert [x for x in out.splitlines() if x.startswith('line')] == wanted
  assert cloud.log('001', 1).splitlines() == wanted


def test_failing_rank_ends_the_job(cloud):
  cloud.write_settings(SPOT='1')
  cloud.program(r'''
echo "rank $META_COT_PROCESS_ID runs"
if [[ $META_COT_PROCESS_ID == 1 ]]; then
  sleep 0.2
  echo 'ValueError: loss is nan'
  exit 3
fi
sleep 60
''')
  cloud.ready()
  started = time.monotonic()
  result = cloud.run('run', code=3)
  assert time.monotonic() - started < 50
  assert 'ValueError: loss is nan' in result.stderr
  assert result.stderr.splitlines()[-1] == (
      'error: job 001 failed on rank 1 (node pod, worker 1) with code 3; logs '
      'of all ranks in runs/pod/logs/001.')
  assert 'running' not in cloud.run('status').stdout
  assert cloud.log('001', 0).startswith('rank 0 runs\n')


def test_the_rank_that_fell_first_is_named(cloud):
  """The others abort when a peer is gone; they are not the cause."""
  cloud.program(r'''
if [[ $META_COT_PROCESS_ID == 1 ]]; then
  touch "$FAKE_CLOUD/fallen"
  kill -KILL $$
fi
while [[ ! -f $FAKE_CLOUD/fallen ]]; do sleep 0.01; done
sleep 0.05
exit 134
''')
  cloud.ready()
  assert 'failed on rank 1 (node pod, worker 1) with code 137' in cloud.run(
      'run', code=137).stderr


def test_stop_saves_and_resume_continues(cloud):
  cloud.program(fake_cloud.ENDLESS)
  cloud.ready()
  job = cloud.start('run')
  fake_cloud.wait_for(lambda: 'runs' in cloud.run('logs', code=None).stdout)
  stopped = cloud.run('stop').stdout
  assert stopped.count('ended with code 75') == 2
  assert 'saved; continue' in job.communicate(timeout=20)[0]
  assert job.returncode == 75
  cloud.program(fake_cloud.COUNTING)
  assert 'step 3' in cloud.run('resume').stdout
  assert cloud.log('001', 1).splitlines()[-1] == 'saved'
  assert cloud.log('002', 1).splitlines()[-1] == 'step 3'


def test_stop_kills_what_does_not_save(cloud):
  cloud.program('trap "" TERM\necho up\nwhile true; do sleep 0.05; done\n')
  cloud.ready()
  job = cloud.start('run')
  fake_cloud.wait_for(lambda: 'up' in cloud.run('logs', code=None).stdout)
  assert cloud.run('stop', '--stop-seconds=0.3').stdout.count('killed') == 2
  job.communicate(timeout=20)
  assert job.returncode == 137


def test_interrupt_detaches_and_resume_attaches(cloud):
  cloud.program(fake_cloud.ENDLESS)
  cloud.ready()
  job = cloud.start('run')
  fake_cloud.wait_for(lambda: 'runs' in cloud.run('logs', code=None).stdout)
  job.send_signal(signal.SIGTERM)
  assert 'detached; the job goes on' in job.communicate(timeout=20)[0]
  assert job.returncode == 143
  assert cloud.run('status').stdout.count('running, job 001') == 2
  assert 'job 001 is running already' in cloud.refused('run', code=1)
  assert 'job 001 is running here' in cloud.run('setup', code=1).stderr
  watches = lambda: sum(
      'watch 001' in word for call in cloud.calls('ssh') for word in call)
  before = watches()
  job = cloud.start('resume')
  fake_cloud.wait_for(lambda: watches() >= before + 2)
  cloud.run('stop')
  job.communicate(timeout=20)
  assert job.returncode == 75
  assert cloud.log('001', 0) == 'rank 0 runs\nsaving\nsaved\n'


def test_network_that_is_down_for_a_moment_deletes_nothing(cloud):
  cloud.program('sleep 1\necho finished\n')
  cloud.ready()
  cloud.scenario(describe_errors=3)
  (cloud.state / 'counters').mkdir(exist_ok=True)
  assert 'could not ask Google Cloud' in cloud.run('run', code=1).stderr
  job = cloud.run('resume', code=1)
  assert 'could not ask' in job.stderr
  cloud.run('run', code=1)
  assert 'finished' in cloud.run('run').stdout
  assert not cloud.calls('delete')


def test_run_needs_the_same_code_everywhere(cloud):
  cloud.run('create')
  assert "run 'launch/tpu.sh setup' first" in cloud.refused('run', code=1)
  cloud.run('setup')
  (cloud.state / 'homes' / 'pod' / '1' / 'meta_cot' / 'code'
   / 'CODE_VERSION').write_text('old\n')
  errors = cloud.refused('run', code=1)
  assert 'rank 1 (node pod, worker 1) has code old' in errors
