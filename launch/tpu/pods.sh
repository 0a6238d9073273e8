# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/tpu/gke.sh: the pods of a JobSet, their logs, their end.

declare -a PODS=()         # names, in no order
declare -A POD_RANK=()     # pod -> rank
declare -A POD_STATUS=()   # pod -> what it does, in words
declare -A POD_ATTEMPT=()  # pod -> how often all were started again before
declare -A POD_END=()      # pod -> "CODE TIME", once it has ended
declare -A FOLLOWED=()     # pod -> yes
PODS_STUCK=                # a pod that cannot start, and why

# Fields of a pod, |-separated; a message comes last, as it may hold anything.
pod_fields() {
  local state='.status.containerStatuses[0].state' field
  printf '{range .items[*]}'
  for field in .metadata.name \
      ".metadata.labels.${JOBSET//./\\.}/job-index" \
      '.metadata.annotations.batch\.kubernetes\.io/job-completion-index' \
      ".metadata.labels.${JOBSET//./\\.}/restart-attempt" .status.phase \
      '.status.conditions[?(@.type=="DisruptionTarget")].reason' \
      .status.reason "$state.waiting.reason" "$state.terminated.exitCode" \
      "$state.terminated.finishedAt" "$state.waiting.message"; do
    printf '{%s}{"|"}' "$field"
  done
  printf '{.status.conditions[?(@.type=="PodScheduled")].message}{"\\n"}{end}'
}

# Fills PODS and what belongs to each. Fails where the cluster does not answer.
read_pods() {
  local answer pod slice index attempt phase target reason waiting code ended
  local message
  local -a command=(get pods "--selector=$JOBSET/jobset-name=${SETTING[NAME]}"
    "--output=jsonpath=$(pod_fields)")
  PODS=() PODS_STUCK=
  if [[ -n $DRY_RUN ]]; then
    kube "${command[@]}"
    return
  fi
  answer=$(kube "${command[@]}" 2>"$SCRATCH/error") || return 1
  while IFS='|' read -r pod slice index attempt phase target reason waiting \
      code ended message; do
    [[ -n $pod ]] || continue
    PODS+=("$pod")
    POD_RANK[$pod]=$((${slice:-0} * $(hosts_per_slice) + ${index:-0}))
    POD_ATTEMPT[$pod]=${attempt:-0}
    reason=${target:-$reason}
    POD_STATUS[$pod]="$phase${reason:+ ($reason)}${code:+, code $code}"
    message=${message#|} message=${message%|}
    case ${waiting:-$phase} in
      ImagePullBackOff | ErrImageNeverPull | InvalidImageName | \
        CreateContainerConfigError)
        PODS_STUCK="$(rank_name "${POD_RANK[$pod]}") cannot start: $waiting:\
 $message" ;;
      Pending) POD_STATUS[$pod]+=${message:+: $message} ;;
    esac
    # A pod that was evicted, or whose node is gone, may have no container left.
    [[ $phase != Failed || -n $code ]] || code=137
    [[ -z $code ]] || POD_END[$pod]="$code $(
      date -d "${ended:-now}" +%s 2>/dev/null || date +%s)"
  done <<<"$answer"
}

# A pod's log: the first start of a rank has the plain name.
pod_log() {
  local name
  name=$(rank_file "${POD_RANK[$1]}")
  ((POD_ATTEMPT[$1] == 0)) || name=${name%.log}.restart-${POD_ATTEMPT[$1]}.log
  echo "$name"
}

# Copies a pod's log until it ends, over as many streams as it takes. Each line
# begins with its time, so that none comes twice.
follow_pod() {
  local pod=$1 folder=$2 file line time last='' phase final='' since
  file=$folder/$(pod_log "$pod")
  [[ ! -s $file ]] || last=$(tail -n 1 "$file" | cut -d' ' -f1)
  while true; do
    since=()
    [[ -z $last ]] || since=("--since-time=$last")
    while IFS= read -r line; do
      time=${line%% *}
      [[ $time > $last ]] || continue
      last=$time
      printf '%s\n' "$line" >>"$file"
      line=${line#* }
      ((POD_RANK[$pod] > 0)) || printf '%s\n' "$line"
      [[ $line =~ ^\[pod\]\ ended\ with\ code\ ([0-9]+)\ at\ ([0-9.]+)$ ]] ||
        continue
      echo "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}" >"$folder/end.$pod"
    done < <(kube logs "$pod" --follow --timestamps "${since[@]}" \
      2>>"$folder/kubectl.log")
    [[ ! -f $folder/end.$pod && -z $final ]] || return 0
    if phase=$(kube get pod "$pod" '--output=jsonpath={.status.phase}' \
        2>"$SCRATCH/error.$pod"); then
      # Its stream may have been cut before its last lines.
      [[ $phase != @(Failed|Succeeded) ]] || final=yes
    elif grep -q '(NotFound)' "$SCRATCH/error.$pod"; then
      return 0
    fi
    [[ -n $final ]] || sleep "${SETTING[RETRY_SECONDS]}"
  done
}

follow_new_pods() {
  local pod folder=$1
  set -m
  for pod in "${PODS[@]}"; do
    [[ -z ${FOLLOWED[$pod]:-} ]] || continue
    FOLLOWED[$pod]=yes
    follow_pod "$pod" "$folder" </dev/null &
    WATCHERS+=($!)
    disown $!
  done
  set +m
}

# Lets the last lines come; they end with their pods, if the cluster answers.
finish_followers() {
  local deadline pid left=yes
  deadline=$(($(clock) + $(milliseconds "${SETTING[STOP_SECONDS]}")))
  while [[ -n $left ]] && (($(clock) < deadline)); do
    left=
    for pid in "${WATCHERS[@]}"; do
      ! kill -0 "$pid" 2>/dev/null || left=yes
    done
    [[ -z $left ]] || sleep 0.1
  done
  stop_watchers
}

# How a pod ended: what its own last line says is exact to the moment.
pod_end() {
  if [[ -f $2/end.$1 ]]; then
    cat "$2/end.$1"
  else
    echo "${POD_END[$1]:-}"
  fi
}

# Finds the pod of this attempt that failed first: FAILED_POD, FAILED_RANK,
# OUTCOME_CODE; pods fall with the first one that does. Where all have saved, the
# code is theirs and there is no such pod.
judge_pods() {
  local folder=$1 pod code time first=
  FAILED_POD='' OUTCOME_CODE=0
  for pod in "${!POD_RANK[@]}"; do
    ((POD_ATTEMPT[$pod] == ATTEMPT)) || continue
    read -r code time < <(pod_end "$pod" "$folder") || continue
    [[ -n $code && $code != 0 ]] || continue
    if ((code == EXIT_SAVED)); then
      ((OUTCOME_CODE != 0)) || OUTCOME_CODE=$code
      continue
    fi
    [[ -z $first ]] || is_before "$time" "$first" || continue
    first=$time FAILED_POD=$pod OUTCOME_CODE=$code
    FAILED_RANK=${POD_RANK[$pod]}
  done
}

# What the pods of this attempt fell with, in words.
cause() {
  local status
  judge_pods "$1"
  if [[ -n $FAILED_POD ]]; then
    status=${POD_STATUS[$FAILED_POD]}
    [[ $status == *', code '* ]] || status+=", code $OUTCOME_CODE"
    echo "$(rank_name "$FAILED_RANK"): $status"
  elif ((OUTCOME_CODE == EXIT_SAVED)); then
    echo 'the pods were told to end, and saved'
  else
    echo 'a pod was lost'
  fi
}

follow_dry() {
  read_pods
  kube logs POD --follow --timestamps
}

# Follows a job to its end, over restarts that Kubernetes makes, and exits with
# its code.
follow_job() {
  local job=$1 folder=$RUN_FOLDER/logs/$1 seen='' before='' deadline reason
  if [[ -n $DRY_RUN ]]; then
    follow_dry
    return
  fi
  mkdir -p "$folder"
  trap 'detach 130' INT
  trap 'detach 143' TERM HUP
  OUTCOME='' WATCHERS=() reason=''
  deadline=$(deadline_from_now)
  while [[ -z $OUTCOME ]]; do
    read_jobset
    if [[ $STATE == running && -n $seen && $ATTEMPT != "$seen" ]]; then
      before=$ATTEMPT ATTEMPT=$seen
      reason=$(cause "$folder")
      ATTEMPT=$before
      say "interrupted: $reason; restart $ATTEMPT of ${SETTING[MAX_RESTARTS]}"
    fi
    [[ $STATE == unknown ]] || seen=$ATTEMPT
    if [[ $STATE != unknown ]] && read_pods; then
      follow_new_pods "$folder"
      [[ -n $(waiting_for) ]] || deadline=$(deadline_from_now)
      tell "$(waiting_for)"
    else
      STATE=unknown
      tell "no answer from the cluster: $(last_error)"
    fi
    case $STATE in
      done | failed | absent) OUTCOME=$STATE ;;
      *)
        [[ -z $PODS_STUCK ]] || give_up "$PODS_STUCK"
        (($(clock) < deadline)) || give_up "$TOLD for\
 ${SETTING[WAIT_SECONDS]} s (WAIT_SECONDS)"
        sleep "${SETTING[WATCH_SECONDS]}" ;;
    esac
  done
  finish_followers
  report_end "$job" "$folder"
}

deadline_from_now() {
  echo $(($(clock) + $(milliseconds "${SETTING[WAIT_SECONDS]}")))
}

# What the pods wait for; nothing where all run or have ended.
waiting_for() {
  local pod
  [[ ${#PODS[@]} -gt 0 || $STATE != running ]] || echo "no pods yet; if it stays\
 so, 'kubectl describe jobset ${SETTING[NAME]}' names the queue or quota"
  for pod in "${PODS[@]}"; do
    [[ ${POD_STATUS[$pod]} == Pending* ]] || continue
    echo "$(rank_name "${POD_RANK[$pod]}"): ${POD_STATUS[$pod]}"
    return
  done
}

TOLD=
tell() {
  [[ -z $1 || $1 == "$TOLD" ]] || say "$1"
  TOLD=$1
}

give_up() {
  stop_watchers
  fail "$1; $(what) is still there: 'launch/tpu.sh stop' ends it,\
 'launch/tpu.sh resume' watches it."
}

report_end() {
  local job=$1 folder=$2 pod
  if [[ $OUTCOME == 'done' ]]; then
    say "job $job is done; results in ${SETTING[WORKDIR]}, logs in $folder.\
 Delete the node pools when you are done: launch/tpu.sh delete"
    return
  fi
  judge_pods "$folder"
  [[ $OUTCOME != absent || $OUTCOME_CODE != 0 ]] || OUTCOME_CODE=137
  # Stopped, or all pods were taken away more often than they may be.
  if ((OUTCOME_CODE == EXIT_SAVED)); then
    say "job $job was stopped and saved; continue with 'launch/tpu.sh resume'"
    exit "$EXIT_SAVED"
  fi
  [[ -z $FAILED_POD ]] ||
    show_end "$FAILED_RANK" "$folder/$(pod_log "$FAILED_POD")"
  ((OUTCOME_CODE != 0)) || OUTCOME_CODE=1
  echo "error: job $job $([[ $OUTCOME == absent ]] && echo 'was deleted before\
 it had saved' || echo "failed: $(cause "$folder")"); logs of all ranks in\
 $folder." >&2
  exit "$OUTCOME_CODE"
}
