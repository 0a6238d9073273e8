# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/tpu.sh: watching a job until it ends.
#
# A background process per rank copies its log to RUN_FOLDER/logs/JOB as it
# grows, so that the logs outlive the VMs.

OUTCOME=         # done | saved | failed | lost
OUTCOME_CODE=
declare -a WATCHERS=()

readonly EXIT_SAVED=75     # meta_cot.main: saved after a signal; run it again

# Copies a rank's log until its job ends, over as many connections as it takes.
# Leaves "CODE TIME asked|unasked", or "lost", in FOLDER/result.RANK.
watch_rank() {
  local rank=$1 job=$2 folder=$3 line number file failures=0 before
  local result=$folder/result.$rank seen=0
  file=$folder/$(rank_file "$rank")
  [[ ! -f $file ]] || seen=$(wc -l <"$file")
  while true; do
    before=$seen
    # A line without an end was cut off with its connection; it comes again.
    while IFS= read -r line; do
      if [[ $line == meta_cot-job:* ]]; then
        echo "${line#*:}" >"$SCRATCH/result.$rank"
        mv "$SCRATCH/result.$rank" "$result"
        return
      fi
      number=${line%%:*}
      # gcloud repeats a command whose connection broke, and with it old lines.
      [[ $number =~ ^[0-9]+$ ]] || continue
      ((number > seen)) || continue
      seen=$number
      printf '%s\n' "${line#*:}" >>"$file"
      ((rank > 0)) || printf '%s\n' "${line#*:}"
    done < <(ssh_rank "$rank" "bash $WORKER_SCRIPT watch $job $((seen + 1))\
 ${SETTING[WATCH_SECONDS]}" 2>>"$folder/ssh.$rank")
    ((seen == before)) || failures=0
    failures=$((failures + 1))
    ((failures <= SETTING[SSH_RETRIES])) || break
    sleep "${SETTING[RETRY_SECONDS]}"
  done
  echo lost >"$result"
}

start_watchers() {
  local job=$1 folder=$2 rank
  rm -f "$folder"/result.*
  WATCHERS=()
  # Job control gives each watcher a process group, to end its ssh with it.
  set -m
  for rank in "${!RANK_SLICE[@]}"; do
    watch_rank "$rank" "$job" "$folder" </dev/null &
    WATCHERS+=($!)
    disown $!
  done
  set +m
}

stop_watchers() {
  local pid
  for pid in "${WATCHERS[@]}"; do
    kill -TERM -- "-$pid" 2>/dev/null || true
  done
  WATCHERS=()
}

# Waits for the end of the job on all ranks; sets OUTCOME, OUTCOME_CODE.
watch_job() {
  local job=$1 folder=$RUN_FOLDER/logs/$1 poll patience='' next_poll
  mkdir -p "$folder"
  start_watchers "$job" "$folder"
  poll=$(milliseconds "${SETTING[POLL_SECONDS]}")
  next_poll=$(($(clock) + poll))
  OUTCOME='' OUTCOME_CODE=0
  while [[ -z $OUTCOME ]]; do
    sleep "${SETTING[WATCH_SECONDS]}"
    judge_results "$folder"
    if [[ $OUTCOME == saving ]]; then
      # The ranks save together; one that hangs would be waited for forever.
      [[ -n $patience ]] ||
        patience=$(($(clock) + $(milliseconds "${SETTING[STOP_SECONDS]}")))
      OUTCOME=
      (($(clock) < patience)) || { OUTCOME=failed OUTCOME_CODE=1 &&
        FAILED_RANK=$(first_without_result "$folder"); }
    fi
    if [[ -z $OUTCOME ]] && (($(clock) > next_poll)); then
      read_state ready
      ! is_gone || OUTCOME=lost
      next_poll=$(($(clock) + poll))
    fi
  done
}

# Sets OUTCOME from the results that are there; saving = some have, some not.
judge_results() {
  local folder=$1 rank code time note ended=0 saved=0 asked='' first=
  for rank in "${!RANK_SLICE[@]}"; do
    [[ -f $folder/result.$rank ]] || continue
    read -r code time note <"$folder/result.$rank"
    if [[ $code == lost ]]; then
      OUTCOME=lost
      STATE_TEXT="$(rank_name "$rank") is out of reach or was restarted"
      return
    fi
    ended=$((ended + 1))
    [[ $note != asked ]] || asked=yes
    if ((code == EXIT_SAVED)); then
      saved=$((saved + 1))
    elif ((code != 0)) &&
        { [[ -z $first ]] || is_before "$time" "$first"; }; then
      # Ranks fall with the first one that does: its time names the cause.
      first=$time FAILED_RANK=$rank OUTCOME_CODE=$code OUTCOME=failed
    fi
  done
  [[ -z $OUTCOME ]] || return 0
  if ((ended == $(num_ranks))); then
    OUTCOME='done'
    ((saved == 0)) || OUTCOME=$([[ -n $asked ]] && echo saved || echo lost)
    STATE_TEXT='the program was told to end, and saved'
  elif ((saved > 0)); then
    OUTCOME=saving
  fi
}

# Whether one time, SECONDS.NANOSECONDS, is before another.
is_before() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -n | sed -n 1p) == "$1" &&
  $1 != "$2" ]]; }

first_without_result() {
  local rank
  for rank in "${!RANK_SLICE[@]}"; do
    [[ -f $1/result.$rank ]] || { echo "$rank" && return; }
  done
}
