# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/tpu.sh for VIA=compute-engine: what differs from TPU VMs.
#
# A managed instance group per slice makes its instances together, from one
# template; a workload policy connects those of a slice. Names of instances end in
# letters of Google's choice: the place of a name in the sorted list of its group
# is the worker's number.

# shellcheck source=launch/tpu/shapes.sh
source launch/tpu/shapes.sh

declare -a NODE_INSTANCES=()  # per slice: names, sorted

readonly IMAGE_PROJECT=ubuntu-os-accelerator-images
readonly PARTS=${SETTING[NAME]}-meta-cot  # the template and the policy
readonly BOOT_DISK=200GB  # an image's own 10 GB do not hold the environment

compute() { cloud compute "$@" "--zone=${SETTING[ZONE]}"; }

groups() { compute instance-groups managed "$@"; }

templates() { cloud compute instance-templates "$@"; }

region() { echo "${SETTING[ZONE]%-*}"; }

policies() { cloud compute resource-policies "$@" "--region=$(region)"; }

has_policy() { (($(hosts_per_slice) > 1)); }

what() { echo "instance group ${SETTING[NAME]}"; }

rank_name() { echo "rank $1 (instance $(rank_vm "$1"))"; }

rank_vm() {
  local -a names
  read -ra names <<<"${NODE_INSTANCES[RANK_SLICE[$1]]}"
  echo "${names[RANK_WORKER[$1]]}"
}

worker_flags() { :; }

reach() { compute "$@"; }

# An instance runs before it lets ssh in.
await_ssh() {
  local deadline
  deadline=$(($(clock) + $(milliseconds "${SETTING[BOOT_SECONDS]}")))
  until remote 0 true; do
    (($(clock) < deadline)) || return 1
  done
}

# Sets STATE and STATE_TEXT, and NODE_INSTANCES and NODE_ADDRESSES where the state
# is ready. $1: the state that a dry run goes on with.
read_state() {
  local slice group answer
  STATE=ready STATE_TEXT="$(what) is ready"
  NODE_INSTANCES=() NODE_ADDRESSES=()
  for ((slice = 0; slice < SETTING[NUM_SLICES]; slice++)); do
    group=$(node_name "$slice")
    local -a command=(groups list-instances "$group"
      '--format=value(instance.basename(),instanceStatus)')
    if [[ -n $DRY_RUN ]]; then
      "${command[@]}"
      NODE_INSTANCES[slice]=$(seq -s' ' -f "INSTANCE_%.0f_OF_$group" 0 $((
        $(hosts_per_slice) - 1)))
    elif answer=$("${command[@]}" 2>"$SCRATCH/error"); then
      read_group "$slice" "$group" "$answer"
    else
      at_least "$(state_of_error absent)" "$(last_error)"
    fi
  done
  [[ -z $DRY_RUN ]] || STATE=$1
  [[ $STATE != ready ]] || read_addresses
}

# at_least STATE TEXT: keeps the worst state of all groups.
at_least() {
  local order=' ready waiting absent failed lost unknown '
  local new=${order%% "$1" *} old=${order%% "$STATE" *}
  ((${#new} <= ${#old})) || STATE=$1 STATE_TEXT=$2
}

# read_group SLICE GROUP ANSWER: the state of one group's instances.
read_group() {
  local slice=$1 group=$2 name status error running=0 state=waiting
  local -a names=()
  while read -r name status; do
    [[ -n $name ]] || continue
    names+=("$name")
    case $status in
      RUNNING) running=$((running + 1)) ;;
      STOPPING | STOPPED | TERMINATED | SUSPENDING | SUSPENDED)
        at_least lost "instance $name is $status" ;;
    esac
  done < <(LC_ALL=C sort <<<"$3")
  NODE_INSTANCES[slice]="${names[*]}"
  [[ $STATE != lost ]] && ((running < $(hosts_per_slice))) || return 0
  # The group asks again and again; only its errors say why nothing comes.
  error=$(groups list-errors "$group" --sort-by=~timestamp --limit=1 \
    '--format=value(error.code,error.message)' 2>/dev/null) || true
  [[ $(failure_kind <<<"$error") != @(quota|service|permission|argument) ]] ||
    state=failed
  at_least "$state" "group $group: $running of $(hosts_per_slice) instances\
 run${error:+; last error: ${error//$'\t'/ }}"
}

# Fills NODE_ADDRESSES, in the order of NODE_INSTANCES.
read_addresses() {
  local answer slice name address
  local -A found=()
  local -a command=(cloud compute instances list "--zones=${SETTING[ZONE]}"
    "--filter=name~^${SETTING[NAME]}-"
    '--format=value(name,networkInterfaces[0].networkIP)')
  if [[ -n $DRY_RUN ]]; then
    "${command[@]}"
    return
  fi
  if ! answer=$("${command[@]}" 2>"$SCRATCH/error"); then
    STATE=unknown STATE_TEXT=$(last_error)
    return
  fi
  while read -r name address; do
    [[ -z $name ]] || found[$name]=$address
  done <<<"$answer"
  for slice in "${!NODE_INSTANCES[@]}"; do
    for name in ${NODE_INSTANCES[slice]}; do
      [[ -n ${found[$name]:-} ]] ||
        at_least waiting "instance $name has no address"
      NODE_ADDRESSES[slice]+="${found[$name]:-};"
    done
  done
}

failure_message() { echo "$STATE_TEXT"; }

# advice KIND: what to do about a failure.
advice() {
  local project=${SETTING[PROJECT]} zone=${SETTING[ZONE]}
  case $1 in
    quota) echo "ask for quota of ${SETTING[ACCELERATOR_TYPE]} in $zone\
 (console: IAM & Admin > Quotas, service compute.googleapis.com; that of\
 tpu.googleapis.com does not count here, spot has its own), or take a smaller\
 ACCELERATOR_TYPE or another ZONE; a group that is there goes on asking until\
 'launch/tpu.sh delete'" ;;
    service) echo "run: gcloud services enable compute.googleapis.com\
 --project=$project" ;;
    permission) echo "run 'gcloud auth login' and check that the account has\
 the roles roles/compute.instanceAdmin.v1 and roles/iam.serviceAccountUser in\
 project $project" ;;
    capacity) echo "try again later, another ZONE, or SPOT=1" ;;
    argument) echo "check ACCELERATOR_TYPE and RUNTIME_VERSION against:\
 gcloud compute machine-types list --zones=$zone --project=$project, and gcloud\
 compute images list --project=$IMAGE_PROJECT --no-standard-images" ;;
    *) echo "see the message above" ;;
  esac
}

# Flags of the instance template.
create_flags() {
  local -a extra flags=("--machine-type=$MACHINE_TYPE"
    "--image-family=${SETTING[RUNTIME_VERSION]}"
    "--image-project=$IMAGE_PROJECT" "--boot-disk-size=$BOOT_DISK"
    --maintenance-policy=TERMINATE --scopes=cloud-platform)
  [[ ${SETTING[ACCELERATOR_TYPE]} != tpu7x-* ]] ||
    flags+=(--boot-disk-type=hyperdisk-balanced)
  # One that was stopped is seen as lost; one that is deleted just is not there.
  [[ ${SETTING[SPOT]} == 0 ]] ||
    flags+=(--provisioning-model=SPOT --instance-termination-action=STOP)
  [[ -z ${SETTING[NETWORK]} ]] || flags+=("--network=${SETTING[NETWORK]}")
  [[ -z ${SETTING[SUBNETWORK]} ]] ||
    flags+=("--subnet=${SETTING[SUBNETWORK]}" "--region=$(region)")
  [[ -z ${SETTING[SERVICE_ACCOUNT]} ]] ||
    flags+=("--service-account=${SETTING[SERVICE_ACCOUNT]}")
  [[ ${SETTING[SSH_ROUTE]} == external ]] || flags+=(--no-address)
  read -ra extra <<<"${SETTING[CREATE_FLAGS]}"
  printf '%s\n' "${flags[@]}" "${extra[@]}"
}

# Makes the policy, the template and the groups that are not there.
request_resource() {
  local slice deadline
  local -a flags policy=()
  say_unless_dry "asking for $(what): ${SETTING[NUM_SLICES]} x\
 ${SETTING[ACCELERATOR_TYPE]} ($MACHINE_TYPE, $TOPOLOGY) in ${SETTING[ZONE]}"
  deadline=$(($(clock) + $(milliseconds "${SETTING[WAIT_SECONDS]}")))
  # What a create that failed has left may be of other settings; what a group
  # uses cannot be deleted and stays.
  delete_parts || true
  if has_policy; then
    ensure policies create workload-policy "$PARTS" \
      --type=HIGH_THROUGHPUT "--accelerator-topology=$TOPOLOGY" \
      --accelerator-topology-mode=AUTO_CONNECT
    policy=("--workload-policy=projects/${SETTING[PROJECT]}/regions/$(
      region)/resourcePolicies/$PARTS")
  fi
  mapfile -t flags < <(create_flags)
  ensure templates create "$PARTS" "${flags[@]}"
  for ((slice = 0; slice < SETTING[NUM_SLICES]; slice++)); do
    ensure groups create "$(node_name "$slice")" "--size=$(hosts_per_slice)" \
      "--template=$PARTS" --target-size-policy-mode=bulk \
      --default-action-on-vm-failure=do-nothing "${policy[@]}"
  done
}

# ensure COMMAND...: until it is there; explains a failure and exits.
ensure() {
  until "$@" 2>"$SCRATCH/error"; do
    case $(failure_kind <"$SCRATCH/error") in
      exists) return ;;
      capacity) (($(clock) < deadline)) ||
        explain_failure "$(<"$SCRATCH/error")" ;;
      *) explain_failure "$(<"$SCRATCH/error")" ;;
    esac
    say "no capacity in ${SETTING[ZONE]}; next try in\
 ${SETTING[POLL_SECONDS]} s (Ctrl-C gives up)"
    sleep "${SETTING[POLL_SECONDS]}"
  done
}

# Deletes the template and the policy; fails where one stays.
delete_parts() {
  local code=0
  templates delete "$PARTS" --quiet 2>"$SCRATCH/error" ||
    [[ $(state_of_error absent) == absent ]] || code=1
  ! has_policy ||
    policies delete "$PARTS" --quiet 2>"$SCRATCH/error" ||
    [[ $(state_of_error absent) == absent ]] || code=1
  return "$code"
}

# Deletes groups, template and policy; what is not there is no error.
delete_resource() {
  local slice
  for ((slice = 0; slice < SETTING[NUM_SLICES]; slice++)); do
    delete_one 'instance group' "$(node_name "$slice")" groups
  done
  delete_parts || warn "template or policy $PARTS could not be\
 deleted; they cost nothing."
}

read_shape
