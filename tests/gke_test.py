# SPDX-License-Identifier: Apache-2.0
"""launch/tpu.sh --via=gke, rehearsed with tests/fake_kubernetes."""

from collections.abc import Iterator
import os
import pathlib
import signal

import pytest
import yaml

from tests import fake_cloud
from tests import fake_cluster
from tests import jobset_schema

GOLDEN = pathlib.Path(__file__).parent / 'golden'
FAILS = r'''
echo "rank $META_COT_PROCESS_ID works"
if [[ $META_COT_PROCESS_ID == 1 ]]; then sleep 0.3; exit CODE; fi
sleep 60
'''
# Its first two starts run until a pod is lost.
LOST = r'''
echo "rank $META_COT_PROCESS_ID works"
for start in 1 2; do
  mkdir "$FAKE_CLOUD/start.$start.$META_COT_PROCESS_ID" 2>/dev/null || continue
  while true; do sleep 0.05; done
done
echo finished
'''


@pytest.fixture(scope='module')
def template(tmp_path_factory) -> fake_cluster.Cluster:
  made = fake_cluster.Cluster(tmp_path_factory.mktemp('template'))
  made.run('setup')
  return made


@pytest.fixture
def cluster(tmp_path, template) -> Iterator[fake_cluster.Cluster]:
  made = fake_cluster.Cluster(tmp_path, template)
  yield made
  made.close()


def _compare(name: str, found: str) -> None:
  if os.environ.get('UPDATE_GOLDEN') == '1':
    (GOLDEN / name).write_text(found)
  assert found == (GOLDEN / name).read_text(), (
      'the commands changed; look at them, then run this test once with '
      'UPDATE_GOLDEN=1.')


def _rendered(cluster, *flags: str) -> str:
  out = cluster.run('run', '--dry-run', *flags).stdout
  start = out.index('apiVersion')
  return out[start:out.index('\nkubectl', start) + 1]


def _check(jobset: dict, hosts: int, slices: int, chips: int) -> None:
  """What Kubernetes and GKE need to start it."""
  assert not list(jobset_schema.problems(jobset))
  assert jobset['metadata']['annotations'] == {
      'alpha.jobset.sigs.k8s.io/exclusive-topology':
          'cloud.google.com/gke-nodepool'}
  job, = jobset['spec']['replicatedJobs']
  spec = job['template']['spec']
  assert job['replicas'] == slices
  assert spec['completions'] == spec['parallelism'] == hosts
  assert spec['completionMode'] == 'Indexed' and spec['backoffLimit'] == 0
  pod = spec['template']['spec']
  # A policy about exit codes is refused with any other.
  assert pod['restartPolicy'] == 'Never'
  assert pod['terminationGracePeriodSeconds'] == 10
  container, = pod['containers']
  assert container['resources'] == {'limits': {'google.com/tpu': chips}}
  variables = {v['name']: v.get('value') for v in container['env']}
  assert all(v is None or isinstance(v, str) for v in variables.values())
  name = jobset['metadata']['name']
  assert variables['META_COT_COORDINATOR'] == (
      f'{name}-{job["name"]}-0-0.{name}:8482')
  assert variables['META_COT_NUM_PROCESSES'] == str(hosts * slices)
  assert ('MEGASCALE_SLICE_ID' in variables) == (slices > 1)
  assert jobset['spec']['network']['publishNotReadyAddresses']
  rule, = jobset['spec']['failurePolicy']['rules']
  assert rule == {'name': 'wrongSettings', 'action': 'FailJobSet',
                  'onJobFailureReasons': ['PodFailurePolicy']}


@pytest.mark.parametrize('name,flags,shape', [
    ('v5e_16', ['--accelerator-type=v5litepod-16'], (4, 1, 4)),
    ('v5p_32', ['--accelerator-type=v5p-32', '--spot=1',
                '--pod-service-account=writer'], (4, 1, 4)),
    ('v6e_256', ['--accelerator-type=v6e-256', '--queue=search',
                 '--env-libtpu-init-args=--a=1 --b="$(B)"'], (64, 1, 4)),
    ('two_slices', ['--accelerator-type=v5p-16', '--num-slices=2'], (2, 2, 4)),
    ('tpu7x', ['--accelerator-type=tpu7x-2x2x4'], (4, 1, 4)),
])
def test_jobset(cluster, name, flags, shape):
  text = _rendered(cluster, *flags)
  _check(yaml.safe_load(text), *shape)
  _compare(f'jobset_{name}.yaml', text)


@pytest.mark.parametrize('old,new,wanted', [
    ('    - name: wrongSettings\n      action:', '    - action:',
     'failurePolicy.rules[0].name: is required'),
    ('backoffLimit: 0', 'backOffLimit: 0', 'spec.backOffLimit: unknown field'),
    ('completions: 4', 'completions: "4"', 'completions: must be of type int'),
    ('operator: In', 'operator: In2', 'operator: must be one of In|NotIn'),
    ('google.com/tpu: 4', 'google.com/tpu: true', 'must be of type quantity'),
    ('args:\n', 'args: none\n              ports:\n', 'args: must be a list'),
])
def test_schema_refuses(old, new, wanted):
  text = (GOLDEN / 'jobset_v5e_16.yaml').read_text()
  assert text.count(old) == 1
  found, = jobset_schema.problems(yaml.safe_load(text.replace(old, new)))
  assert wanted in found


def test_dry_run_prints_the_commands_and_runs_none(cluster):
  lines = []
  for command in ('create', 'setup', 'run', 'status', 'logs', 'stop', 'resume',
                  'delete'):
    lines += [f'$ launch/tpu.sh {command} --dry-run --via=gke',
              cluster.run(command, '--dry-run').stdout]
  lines += [cluster.run(
      'create', '--dry-run', '--accelerator-type=tpu7x-2x2x2').stdout]
  assert not (cluster.state / 'calls.jsonl').exists()
  assert not (cluster.repository / 'runs').exists()
  _compare('gke_dry_run.txt', '\n'.join(lines))


def test_from_create_to_delete(cluster):
  cluster.write_settings(NUM_SLICES='2')
  cluster.scenario(pending=1)
  cluster.program(fake_cloud.COUNTING + 'env | grep -E "^(META_COT|MEGA)" | '
                  'grep -v -e PYTHON -e HOSTS | sort\n')
  cluster.run('create')
  assert 'is there' in cluster.run('create').stdout
  assert "run 'launch/tpu.sh setup' first" in cluster.refused('run', code=1)
  cluster.run('setup')
  version = cluster.git('rev-parse', 'HEAD')
  out = cluster.run('run', '--', '--config.seed=3').stdout
  assert 'Insufficient google.com/tpu' in out
  assert ('rank 0 starts with --config=configs/countdown.py:pod '
          '--workdir=gs://bucket/runs/a --config.seed=3') in out
  assert 'rank 1 starts' not in out
  lines = [l.partition(' ')[2] for l in cluster.log('001', 3).splitlines()]
  assert [line for line in lines if '_' in line.partition('=')[0]] == [
      'MEGASCALE_COORDINATOR_ADDRESS=pod-slice-0-0.pod:8080',
      'MEGASCALE_NUM_SLICES=2', 'MEGASCALE_SLICE_ID=1',
      f'META_COT_CODE_VERSION={version}',
      'META_COT_COORDINATOR=pod-slice-0-0.pod:8482', 'META_COT_DISTRIBUTED=1',
      'META_COT_NUM_PROCESSES=4', 'META_COT_PROCESS_ID=3', 'META_COT_SLICE=1']
  status = cluster.run('status').stdout
  assert 'job 001 is done, restart 0 of 2' in status
  assert 'rank 3 (slice 1, pod 1): Succeeded, code 0' in status
  assert 'step 3' in cluster.run('logs', '--rank=1').stdout
  assert 'job 002 is done' in cluster.run('run').stdout  # another one
  cluster.run('delete')
  assert 'does not exist' in cluster.run('delete').stdout


def test_lost_pods_are_started_again(cluster):
  cluster.program(LOST)
  cluster.ready()
  job = cluster.start('run')
  reasons = 'Evicted', 'DeletionByTaintManager'
  for i, reason in enumerate(reasons, 1):
    fake_cloud.wait_for(lambda n=i: all(
        cluster.has_logged(rank, 'works', n) for rank in range(2)))
    cluster.lose(reason, 1)
  out = job.communicate(timeout=60)[0]
  assert job.returncode == 0, out
  for i, reason in enumerate(reasons, 1):
    assert (
        f'interrupted: rank 1 (slice 0, pod 1): Failed ({reason})' in out), out
    assert f'restart {i} of 2' in out
  assert out.count('rank 0 works') == 3
  log = cluster.repository / 'runs/pod/logs/001/rank-001.restart-2.log'
  assert 'finished' in log.read_text()


def test_a_failing_rank_is_named_and_its_code_stands(cluster):
  cluster.program(FAILS.replace('CODE', '7'))
  cluster.ready()
  result = cluster.run('run', '--max-restarts=1', code=7)
  assert result.stdout.count('interrupted: rank 1') == 1
  assert 'failed: rank 1 (slice 0, pod 1)' in result.stderr
  assert 'rank 1 works' in result.stderr  # its last lines
  # Wrong settings stay wrong.
  cluster.program(FAILS.replace('CODE', '2'))
  assert 'interrupted' not in cluster.run('run', code=2).stdout


def _running(cluster):
  """A job whose two ranks run until they are told to end."""
  cluster.program(fake_cloud.ENDLESS)
  cluster.ready()
  job = cluster.start('run')
  fake_cloud.wait_for(lambda: all(
      cluster.has_logged(rank, 'runs') for rank in range(2)))
  return job


def test_stop_saves_and_resume_goes_on(cluster):
  job = _running(cluster)
  assert 'job 001 is running already' in cluster.refused('run', code=1)
  cluster.run('stop')
  out = job.communicate(timeout=30)[0]
  assert job.returncode == 75, out
  assert 'was stopped and saved' in out
  for rank in range(2):
    assert 'saved\n' in cluster.log('001', rank)
  cluster.program(fake_cloud.COUNTING)
  assert 'job 002 is done' in cluster.run('resume').stdout


def test_interrupt_detaches_and_resume_attaches(cluster):
  job = _running(cluster)
  job.send_signal(signal.SIGTERM)
  assert 'detached; the job goes on' in job.communicate(timeout=20)[0]
  assert job.returncode == 143
  before = len(cluster.calls('logs', '--follow'))
  job = cluster.start('resume')
  fake_cloud.wait_for(
      lambda: len(cluster.calls('logs', '--follow')) >= before + 2)
  cluster.run('stop')
  out = job.communicate(timeout=30)[0]
  assert job.returncode == 75, out
  assert cluster.log('001', 0).count('rank 0 runs') == 1  # no line twice


def test_cut_streams_and_an_api_server_away_lose_nothing(cluster):
  cluster.program('for i in {1..30}; do echo "step $i"; sleep 0.05; done\n')
  cluster.ready()
  cluster.scenario(cut_logs=3)
  job = cluster.start('run')
  fake_cloud.wait_for(lambda: cluster.has_logged(0, 'step'))
  cluster.scenario(cut_logs=3, away=3)
  out = job.communicate(timeout=30)[0]
  assert job.returncode == 0, out
  assert 'no answer from the cluster: Unable to connect' in out
  for rank in range(2):
    words = [l.split()[1:3] for l in cluster.log('001', rank).splitlines()]
    assert words[:-1] == [['step', str(i)] for i in range(1, 31)]


def test_what_cannot_start_says_why(cluster):
  cluster.write_settings(IMAGE='us-docker.pkg.dev/p/a/meta:none')
  errors = cluster.refused('run', code=1)
  assert 'cannot start: ImagePullBackOff: Back-off pulling image' in errors
  cluster.run('stop')
  cluster.scenario(apply_error='error: unable to recognize: no matches for '
                   'kind "JobSet" in version "jobset.x-k8s.io/v1alpha2"')
  assert 'install JobSet' in cluster.run('run', code=1).stderr
  cluster.scenario(away=1)
  assert 'could not ask the cluster' in cluster.refused('run', code=1)


def test_refused_pools_say_what_to_do(cluster):
  cluster.scenario(pool_errors=['Quota TPUS_PER_TPU_FAMILY exceeded'])
  errors = cluster.run('create', code=1).stderr
  assert 'ask for quota of v5p-16 in us-east5-a' in errors
  cluster.scenario(pool_errors=['', 'GCE_STOCKOUT'])
  assert 'no capacity in us-east5-a' in cluster.run('create').stdout


def test_wrong_settings(cluster):
  for flags, words in (
      (['--cluster='], 'VIA=gke needs CLUSTER'),
      (['--via=aws'], 'must be tpu-vm'),
      (['--reserved=1'], 'name the reservation in CREATE_FLAGS'),
      (['--accelerator-type=v2-8'], 'served by --via=tpu-vm only'),
      (['--accelerator-type=v5p-24'], 'take a power of two'),
      (['--via=tpu-vm', '--accelerator-type=tpu7x-2x2x1'],
       'or on a cluster --via=gke --cluster=CLUSTER')):
    assert words in cluster.refused('create', *flags, code=2)
  assert not (cluster.state / 'calls.jsonl').exists()
