# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/tpu/gke.sh: the JobSet of a job.
#
# One Job per slice, one pod per host. If a pod fails, all are made again; not
# if it says that its settings are wrong (2) or the workdir is another's (76).

# A text as YAML; Kubernetes would expand $(NAME).
yaml() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "${text//\$(/\$\$(}"
}

# variable NAME VALUE: of the container's environment.
variable() {
  printf '              - name: %s\n                value: %s\n' "$1" "$(yaml "$2")"
}

job_variables() {
  local name hosts=$1 first=${SETTING[NAME]}-slice-0-0.${SETTING[NAME]}
  variable META_COT_DISTRIBUTED 1
  variable META_COT_COORDINATOR "$first:${SETTING[PORT]}"
  variable META_COT_NUM_PROCESSES $((hosts * SETTING[NUM_SLICES]))
  variable META_COT_HOSTS_PER_SLICE "$hosts"
  slice_number META_COT_SLICE
  if ((SETTING[NUM_SLICES] > 1)); then
    variable MEGASCALE_COORDINATOR_ADDRESS "$first:8080"
    variable MEGASCALE_NUM_SLICES "${SETTING[NUM_SLICES]}"
    slice_number MEGASCALE_SLICE_ID
  fi
  while IFS= read -r name; do
    [[ -z $name ]] || variable "$name" "${RUN_ENVIRONMENT[$name]}"
  done < <(printf '%s\n' "${!RUN_ENVIRONMENT[@]}" | sort)
}

slice_number() {
  cat <<END
              - name: $1
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.annotations['$JOBSET/job-index']
END
}

job_arguments() {
  local word
  local -a extra
  read -ra extra <<<"${SETTING[OVERRIDES]}"
  for word in "--config=${SETTING[CONFIG]}" "--workdir=${SETTING[WORKDIR]}" \
      "${extra[@]}" "${PROGRAM_ARGUMENTS[@]}"; do
    printf '              - %s\n' "$(yaml "$word")"
  done
}

# Lines for what may be asked for.
if_queue() {
  [[ -z ${SETTING[QUEUE]} ]] ||
    echo "    kueue.x-k8s.io/queue-name: ${SETTING[QUEUE]}"
}

if_account() {
  [[ -z ${SETTING[POD_SERVICE_ACCOUNT]} ]] ||
    echo "            serviceAccountName: ${SETTING[POD_SERVICE_ACCOUNT]}"
}

if_spot() {
  [[ ${SETTING[SPOT]} == 0 ]] || printf '%s\n' "$@"
}

# render_jobset JOB IMAGE: prints it; read_shape has been called.
render_jobset() {
  local job=$1 image=$2 hosts grace
  hosts=$(hosts_per_slice)
  grace=$((($(milliseconds "${SETTING[STOP_SECONDS]}") + 999) / 1000))
  sed '/^$/d' <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: ${SETTING[NAME]}
  namespace: ${SETTING[NAMESPACE]}
  labels:
    meta-cot-job: "$job"
$(if_queue)
  annotations:
    alpha.$JOBSET/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  network:
    enableDNSHostnames: true
    publishNotReadyAddresses: true
  failurePolicy:
    maxRestarts: ${SETTING[MAX_RESTARTS]}
    rules:
    - name: wrongSettings
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: ${SETTING[NUM_SLICES]}
    template:
      spec:
        completionMode: Indexed
        completions: $hosts
        parallelism: $hosts
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              containerName: main
              operator: In
              values: [2, 76]
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: $grace
$(if_account)
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $NODE_LABEL
              cloud.google.com/gke-tpu-topology: $TOPOLOGY
$(if_spot '              cloud.google.com/gke-spot: "true"')
            tolerations:
            - key: google.com/tpu
              operator: Exists
$(if_spot '            - key: cloud.google.com/gke-spot' \
    '              operator: Exists')
            containers:
            - name: main
              image: $(yaml "$image")
              command: [bash, launch/tpu/pod.sh]
              args:
$(job_arguments)
              env:
$(job_variables "$hosts")
              resources:
                limits:
                  google.com/tpu: $CHIPS
END
}
