#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# N processes of one command on this machine, joined as those of a pod are: the
# rehearsal of a pod on CPUs.
#
#   launch/local_cluster.sh N -- COMMAND [ARGUMENT ...]
#   launch/local_cluster.sh 4 -- python -m meta_cot.main --config=... --workdir=...
#
# Every process gets the variables of meta_cot/runtime/roll_call.py. What process 0
# prints is shown; all logs are kept in LOG_DIR (a new folder by default), as
# rank-0.log and so on, with the number of each process in rank-0.pid.
#
# If one process fails, the others are ended, its last lines are printed, and
# its exit code is that of the job. One that does not end when the others have
# lost it is stuck, and named so; so is one that is stopped (SIGSTOP) for twice
# META_COT_GRACE. A first Ctrl-C, SIGTERM or SIGHUP goes to all, which save and
# exit with 75 ("run the same command again to continue"); a second one ends them
# at once.
#
# JAX_NUM_CPU_DEVICES: devices per process (1).
# META_COT_GRACE: seconds between asking a process to end and ending it (10).
# META_COT_HOSTS_PER_SLICE: so many processes are a slice, and all get the
#   variables of a JobSet's pods (launch/tpu/pod.sh) in place of their number.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
  echo "error: $*" >&2
  echo "usage: launch/local_cluster.sh N -- COMMAND [ARGUMENT ...]" >&2
  exit 2
}

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] ||
  usage "N: got '${1:-}'; must be a number of processes, at least 1."
[[ ${2:-} == -- ]] || usage "got '${2:-}' after N; must be --, then a command."
(($# > 2)) || usage "no command after --."
num_ranks=$1
shift 2

grace=${META_COT_GRACE:-10}
logs=${LOG_DIR:-$(mktemp -d "${TMPDIR:-/tmp}/local_cluster.XXXXXX")}
mkdir -p "$logs"

# Two neighbouring ports where nobody listens, below those that systems give out.
free_port() {
  local port next
  while true; do
    port=$((20000 + RANDOM % 10000 / 2 * 2))
    for next in 0 1; do
      if (: <>"/dev/tcp/127.0.0.1/$((port + next))") 2>/dev/null; then
        continue 2
      fi
    done
    echo "$port"
    return
  done
}

pids=()    # of the ranks; '' once a rank has ended
groups=()  # of the processes that each rank started
codes=()   # exit codes of the ranks that have ended
tees=()    # what copies the output of rank 0
signals=() # that have come
stopped=() # since when ranks are stopped, seconds
stuck=     # the rank that did not end
stop=      # the one that was passed on to all

# Arguments: rank, fds of its output and errors, command.
start_rank() {
  local rank=$1 out=$2 err=$3 hosts=${META_COT_HOSTS_PER_SLICE:-}
  local -a names=("META_COT_PROCESS_ID=$rank")
  shift 3
  [[ -z $hosts ]] || names=("JOB_COMPLETION_INDEX=$((rank % hosts))"
    "META_COT_SLICE=$((rank / hosts))")
  # A group of its own: a Ctrl-C reaches it through us only, and its workers can
  # be ended with it.
  set -m
  env "${names[@]}" "$@" </dev/null 1>&"$out" 2>&"$err" &
  set +m
  pids[rank]=$!
  groups[rank]=$!
  echo "$!" >"$logs/rank-$rank.pid"
}

start_all() {
  local rank out err
  for ((rank = 0; rank < num_ranks; rank++)); do
    : >"$logs/rank-$rank.log"
    if ((rank == 0)); then
      exec {out}> >(trap '' INT TERM HUP; exec tee -a "$logs/rank-0.log")
      tees+=($!)
      exec {err}> >(trap '' INT TERM HUP; exec tee -a "$logs/rank-0.log" >&3)
      tees+=($!)
    else
      exec {out}>>"$logs/rank-$rank.log" {err}>&"$out"
    fi
    start_rank "$rank" "$out" "$err" "$@"
    exec {out}>&- {err}>&-
  done
}

# Sends a signal to the ranks that are left.
send() {
  local pid
  for pid in "${pids[@]}"; do
    [[ -z $pid ]] || kill "-$1" "$pid" || true
  done
}

# Ends the ranks and all that they have started.
kill_all() {
  local group
  for group in "${groups[@]}"; do
    kill -KILL -- "-$group" || true
  done
}

# Passes the first signal on; a second one ends all. Not in the handler, which may
# run while a rank is started, before its number is known.
pass_on() {
  ((${#signals[@]})) || return 0
  if [[ -z $stop ]]; then
    stop=${signals[0]}
    echo "SIG$stop passed on to all processes; a second one ends them" >&3
    send "$stop"
  fi
  if ((${#signals[@]} > 1)); then
    echo "second signal: ending all processes" >&3
    kill_all
    exit $((128 + $(kill -l "${signals[1]}")))
  fi
}

# Notes the exit codes of ranks that have ended since.
collect() {
  local rank
  for rank in "${!pids[@]}"; do
    [[ -n ${pids[rank]} ]] || continue
    if ! kill -0 "${pids[rank]}"; then
      codes[rank]=0
      wait "${pids[rank]}" || codes[rank]=$?
      pids[rank]=
    fi
  done
}

# Counts the ranks that are left, into `left`. Here and below no $(...): Bash may
# lose a signal that comes while it starts one.
count_left() {
  local pid
  left=0
  for pid in "${pids[@]}"; do
    [[ -z $pid ]] || left=$((left + 1))
  done
}

# Finds a rank that is stopped for too long, into `stuck`. Linux says so in /proc.
find_stopped() {
  local rank line
  for rank in "${!pids[@]}"; do
    line=
    [[ -z ${pids[rank]} ]] || read -r line <"/proc/${pids[rank]}/stat" || true
    line=${line##*) }
    if [[ ${line%% *} != T ]]; then
      unset "stopped[rank]"
    elif ((SECONDS - ${stopped[rank]:=$SECONDS} >= 2 * grace)); then
      stuck=$rank
    fi
  done
}

# Of ranks that have not ended though they were asked to, the first is the cause
# where the others have only lost one; into `stuck`.
find_stuck() {
  local rank
  [[ -z $stuck && -n $failed && ${codes[failed]} == 134 ]] || return 0
  for rank in "${!pids[@]}"; do
    if [[ -n ${pids[rank]} ]]; then
      stuck=$rank
      return
    fi
  done
}

# Finds the rank whose failure is the cause, into `failed`; empty if all ended
# well; 75 is well after a signal. A rank that has only lost another one ends a little later,
# mostly by an abort (134); one that was killed is rarely a consequence.
find_failed() {
  local rank code weight best=9
  failed=
  for rank in "${!codes[@]}"; do
    code=${codes[rank]}
    ((code == 0)) || [[ -n $stop && $code == 75 ]] && continue
    weight=1
    ((code <= 128)) || weight=0
    ((code != 134)) || weight=2
    if ((weight < best)); then
      best=$weight failed=$rank
    fi
  done
}

# Waits until all have ended, at most $1 seconds.
wait_for_all() {
  local deadline=$((SECONDS + $1))
  while pass_on; collect; count_left; ((left && SECONDS < deadline)); do
    sleep 0.1
  done
}

report() {
  local rank=$1 code=${codes[$1]} words
  words="failed (exit code $code"
  ((code <= 128)) || words+=", signal $((code - 128))"
  words+=')'
  [[ -z $stuck ]] || words='is stuck'
  [[ -z $stuck || -z ${stopped[stuck]:-} ]] || words+=' (stopped by a signal)'
  {
    echo "rank $rank of $num_ranks $words; its last lines:"
    tail -n 20 "$logs/rank-$rank.log" | sed "s/^/[$rank] /"
    echo "all logs: $logs"
  } >&3
}

# The copies of rank 0's output are complete, unless something it has started
# still holds it.
wait_for_tees() {
  local pid tries
  for pid in "${tees[@]}"; do
    for ((tries = 0; tries < 20; tries++)); do
      kill -0 "$pid" || break
      sleep 0.1
    done
  done
}

port=$(free_port)
export META_COT_DISTRIBUTED=1 META_COT_COORDINATOR=127.0.0.1:$port
export META_COT_NUM_PROCESSES=$num_ranks JAX_PLATFORMS=cpu
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-1}
# On a CPU only process 0 could use the cache of compiled programs. The others
# would come late, and Gloo waits 30 s for them.
((num_ranks == 1)) || export JAX_ENABLE_COMPILATION_CACHE=false
# Bash reports every process that a signal ends; that is not for the terminal.
exec 3>&2 2>"$logs/launcher.log"
trap 'signals+=(INT)' INT
trap 'signals+=(TERM)' TERM
trap 'signals+=(HUP)' HUP
trap kill_all EXIT
start_all "$@"

while pass_on; collect; count_left; find_failed; find_stopped; ((left)); do
  if [[ -n $failed$stuck || (-n $stop && $left -lt $num_ranks) ]]; then
    # After a signal the others are about to end too.
    [[ -z $stop ]] || wait_for_all $((3 * grace))
    send TERM
    wait_for_all "$grace"
    find_stopped
    find_stuck
    kill_all
    wait_for_all 5
    [[ -n $failed ]] || find_failed
    failed=${stuck:-$failed}
    break
  fi
  sleep 0.1
done
trap '' INT TERM HUP
trap - EXIT
kill_all
wait_for_tees
if [[ -n $failed ]]; then
  report "$failed"
  exit "${codes[failed]}"
fi
for code in "${codes[@]}"; do
  ((code != 75)) || exit 75
done
