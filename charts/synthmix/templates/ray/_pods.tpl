{{/* Ray's pods, the same under the KubeRay operator and without it. Each is a pod template's content. */}}

{{/* What a Ray container has besides its command: (dict "root" $ "values" ... "head" bool). The head calls services;
     a worker, which decodes what users send and runs models of theirs, holds no token of them. */}}
{{- define "synthmix.rayContainer" -}}
image: {{ include "synthmix.image" (dict "root" .root "image" .root.Values.images.worker) }}
imagePullPolicy: {{ .root.Values.images.worker.pullPolicy }}
env:
  {{- include "synthmix.environment" .root | nindent 2 }}
  {{- include "synthmix.cacheEnvironment" .values.cache | nindent 2 }}
  {{- if .head }}
  {{- include "synthmix.callingEnvironment" .root | nindent 2 }}
  {{- end }}
  # In a container Ray takes its disk for empty unless it is told to look.
  - {name: RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE, value: "1"}
  # What is ended for want of memory is tried again by its operation, and not for ever.
  - {name: RAY_task_oom_retries, value: "0"}
  # One task at a time, before a host of operations: Ray's own policy ends as many processes as free a share of the memory.
  - {name: RAY_worker_killing_policy_by_group, value: "true"}
  # What an incident's message tells to look at.
  - name: SYNTHMIX_NAMESPACE
    valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
  - name: SYNTHMIX_POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
resources:
  {{- include "synthmix.resources" (dict "resources" .values.resources "volumes" (list .values.temporary .values.cache)) | nindent 2 }}
securityContext:
  {{- include "synthmix.containerSecurityContext" .root | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: shared-memory, mountPath: /dev/shm}
  - {name: cache, mountPath: /var/cache/synthmix}
  {{- include "synthmix.tlsMounts" .root | nindent 2 }}
  {{- if .head }}
  {{- include "synthmix.callingMount" .root | nindent 2 }}
  {{- end }}
  {{- with .root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* How many CPUs Ray counts on a pod, as KubeRay says: the limit, or else the request, rounded up; 0 is for the node's. */}}
{{- define "synthmix.rayCpus" -}}
{{- $resources := .resources | default dict -}}
{{- $given := toString (coalesce ($resources.limits).cpu ($resources.requests).cpu "0") -}}
{{- if hasSuffix "m" $given }}{{ ceil (divf (trimSuffix "m" $given) 1000) }}{{ else }}{{ ceil $given }}{{ end -}}
{{- end -}}

{{/* Refuses a task that would never start on its pod: (dict "path" path "values" ...). */}}
{{- define "synthmix.checkTaskCpus" -}}
{{- $cpus := include "synthmix.rayCpus" .values | float64 }}
{{- if and $cpus (gt (float64 .values.task.cpus) $cpus) }}
{{- fail (printf "\n\n%s.task.cpus is %v, more than its pod's %v, so no task would ever start: lower it, or raise %s.resources' cpu.\n" .path .values.task.cpus $cpus .path) }}
{{- end }}
{{- end -}}

{{/* Refuses what KubeRay refuses too late, or what no task would ever run on: (dict "root" $ "key" key "values" ...). */}}
{{- define "synthmix.checkWorkerGroup" -}}
{{- $values := .values }}
{{- include "synthmix.checkTaskCpus" (dict "path" (printf "workers.%s" .key) "values" $values) }}
{{- if gt (int $values.min) (int $values.max) }}
{{- fail (printf "\n\nworkers.%s.min is %v, more than workers.%s.max, %v: lower it, or raise the maximum.\n" .key $values.min .key $values.max) }}
{{- end }}
{{- if .root.Values.ray.operator }}
{{- /* Without it, Ray looks for itself. */}}
{{- $gpus := 0 }}
{{- range $name, $count := (($values.resources).limits | default dict) }}
{{- if and (or (hasSuffix "gpu" $name) (contains "/mig-" $name)) $count }}
{{- $gpus = add $gpus (int $count) }}
{{- end }}
{{- end }}
{{- if gt (float64 $values.task.gpus) (float64 $gpus) }}
{{- fail (printf "\n\nworkers.%s.task.gpus is %v, more than its worker's %v, so no task would ever start: lower it, or give workers.%s.resources.limits a nvidia.com/gpu.\n" .key $values.task.gpus $gpus .key) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What a Ray pod has besides its container: (dict "root" $ "values" ... "head" bool). */}}
{{- define "synthmix.rayPod" -}}
automountServiceAccountToken: false
{{ if .head -}}
serviceAccountName: {{ include "synthmix.fullname" .root }}-ray-head
{{ end -}}
{{- if .root.Values.ray.queue.kueue }}
# Kueue's own, which its webhook adds and each upgrade would take away.
schedulingGates: [{name: kueue.x-k8s.io/elastic-job}]
{{ end -}}
securityContext:
  {{- include "synthmix.podSecurityContext" .root | nindent 2 }}
{{- include "synthmix.pullSecrets" .root }}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: {{ .values.temporary }}}}
  - {name: shared-memory, emptyDir: {medium: Memory, sizeLimit: {{ .values.sharedMemory }}}}
  - {name: cache, emptyDir: {sizeLimit: {{ .values.cache }}}}
  {{- include "synthmix.tlsVolumes" (dict "root" .root "serves" false) | nindent 2 }}
  {{- if .head }}
  {{- include "synthmix.callingVolume" .root | nindent 2 }}
  {{- if .root.Values.ray.operator }}
  {{- include "synthmix.kubernetesApiVolume" .root | nindent 2 }}
  {{- end }}
  {{- end }}
  {{- with .root.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $selector := deepCopy .values.nodeSelector }}
{{- with .values.gpuProduct }}
{{- $_ := set $selector "nvidia.com/gpu.product" . }}
{{- end }}
{{- with $selector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "synthmix.rayPodMetadata" -}}
labels:
  {{- include "synthmix.podLabels" (dict "root" .root "component" .component) | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  {{- include "synthmix.podAnnotations" (dict "root" .root "monitor" "podMonitor" "port" "8080" "container" .container "extra" .values.podAnnotations) | nindent 2 }}
{{- end -}}

{{/* Ray node labels, by which tasks and hosts of operations find their place. */}}
{{- define "synthmix.headRayLabels" -}}
synthmix.io/operation-hosts: "true"
{{- end -}}

{{/* Ray carries records and lists of keys; images and weights go through object storage. */}}
{{- define "synthmix.rayObjectStoreBytes" -}}536870912{{- end -}}

{{/* "a=b,c=d" from a dict. */}}
{{- define "synthmix.rayLabelArgument" -}}
{{- $pairs := list -}}
{{- range $key, $value := . -}}
{{- $pairs = append $pairs (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end -}}

{{/* KubeRay adds these itself. A node is healthy when its raylet is; a head's answer includes the GCS. */}}
{{- define "synthmix.rayProbes" -}}
startupProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 3
  failureThreshold: 60
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 12
{{- end -}}
