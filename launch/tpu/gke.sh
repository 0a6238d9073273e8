# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/tpu.sh for VIA=gke: what each command does on a cluster.
#
# create makes a node pool per slice, setup builds and pushes the image, run
# applies a JobSet; Kubernetes starts the pods again after a failure, and what is
# here only watches.

# shellcheck source=launch/tpu/shapes.sh
source launch/tpu/shapes.sh
# shellcheck source=launch/tpu/jobset.sh
source launch/tpu/jobset.sh
# shellcheck source=launch/tpu/pods.sh
source launch/tpu/pods.sh

readonly JOBSET=jobset.sigs.k8s.io

JOBSET_JOB=    # number of the job whose JobSet is there
ATTEMPT=       # how often its pods have been started again

location() { echo "${SETTING[CLUSTER_LOCATION]:-${SETTING[ZONE]%-*}}"; }

# kube WORD...: kubectl on this cluster, whatever the current one is.
kube() {
  call kubectl "--context=gke_${SETTING[PROJECT]}_$(
    location)_${SETTING[CLUSTER]}" "--namespace=${SETTING[NAMESPACE]}" "$@"
}

pools() {
  cloud container node-pools "$@" "--cluster=${SETTING[CLUSTER]}" \
    "--location=$(location)"
}

what() { echo "JobSet ${SETTING[NAME]}"; }

rank_name() {
  echo "rank $1 (slice $(($1 / $(hosts_per_slice))), pod $(($1 %
    $(hosts_per_slice))))"
}

# The image of the code that setup has packed last.
image() {
  local version=COMMIT
  if [[ ${SETTING[IMAGE]##*/} == *[:@]* ]]; then
    echo "${SETTING[IMAGE]}"
    return
  fi
  if [[ -f $RUN_FOLDER/CODE_VERSION ]]; then
    version=$(<"$RUN_FOLDER/CODE_VERSION")
  elif [[ -z $DRY_RUN ]]; then
    fail "no image has been made; run 'launch/tpu.sh setup' first."
  fi
  echo "${SETTING[IMAGE]}:$version"
}

command_create() {
  local slice
  read_shape
  check_workdir
  check_config
  cloud container clusters get-credentials "${SETTING[CLUSTER]}" \
    "--location=$(location)" 2>"$SCRATCH/error" || explain_pool_failure
  if needs_policy; then
    cloud compute resource-policies create workload-policy "${SETTING[NAME]}" \
      --type=HIGH_THROUGHPUT "--accelerator-topology=$TOPOLOGY" \
      "--region=${SETTING[ZONE]%-*}" 2>"$SCRATCH/error" ||
      [[ $(failure_kind <"$SCRATCH/error") == exists ]] || explain_pool_failure
  fi
  for ((slice = 0; slice < SETTING[NUM_SLICES]; slice++)); do
    create_pool "${SETTING[NAME]}-$slice"
  done
}

# TPU7x takes the shape of several hosts from a policy.
needs_policy() {
  [[ ${SETTING[ACCELERATOR_TYPE]} == tpu7x-* ]] && (($(hosts_per_slice) > 1))
}

create_pool() {
  local pool=$1 deadline
  local -a flags extra
  flags=("--node-locations=${SETTING[ZONE]}" "--machine-type=$MACHINE_TYPE"
    "--num-nodes=$(hosts_per_slice)")
  if needs_policy; then
    flags+=("--placement-policy=${SETTING[NAME]}")
  elif (($(hosts_per_slice) > 1)); then
    flags+=("--tpu-topology=$TOPOLOGY")
  fi
  [[ ${SETTING[SPOT]} == 0 ]] || flags+=(--spot)
  [[ -z ${SETTING[SERVICE_ACCOUNT]} ]] ||
    flags+=("--service-account=${SETTING[SERVICE_ACCOUNT]}")
  read -ra extra <<<"${SETTING[CREATE_FLAGS]}"
  say_unless_dry "making node pool $pool: $MACHINE_TYPE, $TOPOLOGY"
  deadline=$(($(clock) + $(milliseconds "${SETTING[WAIT_SECONDS]}")))
  until pools create "$pool" "${flags[@]}" "${extra[@]}" \
      2>"$SCRATCH/error"; do
    case $(failure_kind <"$SCRATCH/error") in
      exists) say "node pool $pool is there" && return ;;
      capacity) (($(clock) < deadline)) || explain_pool_failure ;;
      *) explain_pool_failure ;;
    esac
    say "no capacity in ${SETTING[ZONE]}; next try in\
 ${SETTING[POLL_SECONDS]} s (Ctrl-C gives up)"
    pools delete "$pool" --quiet 2>/dev/null || true
    sleep "${SETTING[POLL_SECONDS]}"
  done
}

# Prints the message of a failed call and what to do about it, and exits.
explain_pool_failure() {
  local advice
  case $(failure_kind <"$SCRATCH/error") in
    quota) advice="ask for quota of ${SETTING[ACCELERATOR_TYPE]} in\
 ${SETTING[ZONE]} (console: IAM & Admin > Quotas, service\
 compute.googleapis.com; spot has its own), or take a smaller one" ;;
    service) advice="run: gcloud services enable container.googleapis.com\
 --project=${SETTING[PROJECT]}" ;;
    permission) advice="run 'gcloud auth login' and check that the account has\
 the role roles/container.admin in project ${SETTING[PROJECT]}" ;;
    capacity) advice="try again later, another ZONE, or SPOT=1" ;;
    argument) advice="check CLUSTER, CLUSTER_LOCATION, ZONE and\
 ACCELERATOR_TYPE" ;;
    *) advice="see the message above" ;;
  esac
  cat "$SCRATCH/error" >&2
  fail "could not make the node pools of ${SETTING[NAME]}; $advice."
}

command_setup() {
  local image
  if [[ ${SETTING[IMAGE]##*/} == *[:@]* ]]; then
    say "IMAGE=${SETTING[IMAGE]} is taken as it is; there is nothing to build"
    return
  fi
  [[ -n $DRY_RUN ]] || command -v docker >/dev/null || usage_error "docker is\
 not on the PATH; install it, or give IMAGE a tag that was built elsewhere."
  [[ -n $DRY_RUN ]] || mkdir -p "$RUN_FOLDER"
  pack_code
  image=$(image)
  local -a build=(docker build --file=launch/Dockerfile
    --build-arg=EXTRAS=tpu "--tag=$image" -)
  if [[ -n $DRY_RUN ]]; then
    echo "$(quote "${build[@]}") <$(quote "$RUN_FOLDER/code.tar.gz")"
    quote docker push "$image"
    return
  fi
  "${build[@]}" <"$RUN_FOLDER/code.tar.gz" || fail "could not build $image."
  docker push "$image" || fail "could not push $image; run 'gcloud auth\
 configure-docker ${SETTING[IMAGE]%%/*}' and check that the repository exists."
  say "pushed $image"
}

# Sets STATE: absent | running | done | failed | unknown, and what it belongs to.
read_jobset() {
  local answer state
  local -a command=(get jobset "${SETTING[NAME]}" "--output=jsonpath={\
.metadata.labels.meta-cot-job}|{.status.restarts}|{.status.terminalState}")
  STATE=absent JOBSET_JOB=
  if [[ -n $DRY_RUN ]]; then
    kube "${command[@]}"
  elif answer=$(kube "${command[@]}" 2>"$SCRATCH/error"); then
    IFS='|' read -r JOBSET_JOB ATTEMPT state <<<"$answer"
    ATTEMPT=${ATTEMPT:-0}
    case $state in
      Completed) STATE='done' ;;
      Failed) STATE=failed ;;
      *) STATE=running ;;
    esac
  else
    # "the server doesn't have a resource type" is no answer about this one.
    STATE=$(grep -q '(NotFound)' "$SCRATCH/error" && echo absent ||
      echo unknown)
    STATE_TEXT=$(last_error)
  fi
}

require_answer() {
  read_jobset
  [[ $STATE != unknown ]] || fail "could not ask the cluster: $STATE_TEXT;\
 'launch/tpu.sh create' gets its credentials, and README.md says how to install\
 JobSet."
}

command_run() {
  check_workdir
  require_answer
  [[ $STATE != running ]] || fail "job $JOBSET_JOB is running already;\
 'launch/tpu.sh resume' watches it, 'launch/tpu.sh stop' ends it."
  start_jobset
}

command_resume() {
  check_workdir
  require_answer
  if [[ $STATE == running ]]; then
    follow_job "$JOBSET_JOB"
  else
    start_jobset
  fi
}

start_jobset() {
  local job image
  read_shape
  image=$(image)
  if [[ -n $DRY_RUN ]]; then
    kube apply --filename=-
    render_jobset 001 "$image"
    follow_dry
    return
  fi
  [[ $STATE == absent ]] || delete_jobset
  RANK_JOB=("${JOBSET_JOB:-none}")
  job=$(next_job)
  mkdir -p "$RUN_FOLDER/logs/$job"
  render_jobset "$job" "$image" >"$RUN_FOLDER/logs/$job/jobset.yaml"
  kube apply "--filename=$RUN_FOLDER/logs/$job/jobset.yaml" \
    >"$SCRATCH/answer" 2>"$SCRATCH/error" || explain_apply_failure
  say "started job $job with $image; logs in $RUN_FOLDER/logs/$job"
  follow_job "$job"
}

explain_apply_failure() {
  local advice='see the message above'
  if grep -q 'no matches for kind' "$SCRATCH/error"; then
    advice='install JobSet on the cluster (launch/README.md)'
  elif [[ $(failure_kind <"$SCRATCH/error") == quota ]]; then
    advice="namespace ${SETTING[NAMESPACE]} has a quota; ask for more of it"
  elif [[ $(failure_kind <"$SCRATCH/error") == permission ]]; then
    advice='the account needs the role roles/container.developer'
  fi
  cat "$SCRATCH/error" >&2
  fail "could not start $(what); $advice."
}

# Waits until its pods have saved and are gone.
delete_jobset() {
  local seconds
  seconds=$(($(milliseconds "${SETTING[STOP_SECONDS]}") / 1000 + 60))
  kube delete jobset "${SETTING[NAME]}" --cascade=foreground --ignore-not-found \
    "--timeout=${seconds}s" 2>"$SCRATCH/error" || {
    cat "$SCRATCH/error" >&2
    fail "could not delete $(what); see launch/tpu.sh status."
  }
}

command_status() {
  local pod
  require_answer
  [[ -n $DRY_RUN || $STATE == absent ]] ||
    say "$(what): job $JOBSET_JOB is $STATE, restart $ATTEMPT of\
 ${SETTING[MAX_RESTARTS]}"
  [[ -n $DRY_RUN || $STATE != absent ]] || say "$(what) does not exist"
  read_pods || fail "could not ask the cluster: $(last_error)"
  for pod in "${PODS[@]}"; do
    say "$(rank_name "${POD_RANK[$pod]}"): ${POD_STATUS[$pod]}"
  done
}

command_logs() {
  local pod
  local -a flags=("--tail=$LOG_LINES")
  [[ -z $FOLLOW ]] || flags+=(--follow)
  if [[ -n $DRY_RUN ]]; then
    read_pods
    kube logs "POD_OF_RANK_$LOG_RANK" "${flags[@]}"
    return
  fi
  read_pods || fail "could not ask the cluster: $(last_error)"
  for pod in "${PODS[@]}"; do
    ((POD_RANK[$pod] == LOG_RANK)) || continue
    kube logs "$pod" "${flags[@]}" || fail "no log from $(rank_name \
      "$LOG_RANK")."
    return
  done
  fail "$(rank_name "$LOG_RANK") has no pod; the logs that were copied are in\
 $RUN_FOLDER/logs."
}

command_stop() {
  require_answer
  if [[ -z $DRY_RUN && $STATE == absent ]]; then
    say "$(what) does not exist"
    return
  fi
  say_unless_dry "asking all pods to save and end, at most\
 ${SETTING[STOP_SECONDS]} s"
  delete_jobset
}

command_delete() {
  local slice
  delete_jobset
  for ((slice = 0; slice < SETTING[NUM_SLICES]; slice++)); do
    delete_one 'node pool' "${SETTING[NAME]}-$slice" pools
  done
  ! needs_policy || cloud compute resource-policies delete "${SETTING[NAME]}" \
    "--region=${SETTING[ZONE]%-*}" --quiet ||
    warn "policy ${SETTING[NAME]} could not be deleted; it costs nothing."
}
