{{/* Names. Objects of one release are told apart by synthmix.fullname; 50 characters leave room for suffixes. */}}
{{- define "synthmix.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "synthmix.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "synthmix.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "synthmix.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The services as the code names them, and their keys in values. One list for every template. */}}
{{- define "synthmix.services" -}}
adapter-training: adapterTraining
image-synthesis: imageSynthesis
classifier-evaluation: classifierEvaluation
study-control: studyControl
{{- end -}}

{{/* The tasks of each run on a worker group of its own: the same names and keys. */}}
{{- define "synthmix.workerGroups" -}}
{{ include "synthmix.services" . }}
{{- end -}}

{{/* Labels: (dict "root" $ "component" "..."). */}}
{{- define "synthmix.selectorLabels" -}}
app.kubernetes.io/name: {{ include "synthmix.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* A pod's: no version, since a pod is not to be replaced because its chart was. */}}
{{- define "synthmix.podLabels" -}}
{{ include "synthmix.selectorLabels" . }}
app.kubernetes.io/part-of: synthmix
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "synthmix.labels" -}}
{{ include "synthmix.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{/* An image's reference: (dict "root" $ "image" .Values.images.control). */}}
{{- define "synthmix.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- define "synthmix.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Secrets: yours, or the release's. */}}
{{- define "synthmix.tokenSecret" -}}
{{- default (printf "%s-token" (include "synthmix.fullname" .)) .Values.access.existingSecret -}}
{{- end -}}
{{- define "synthmix.raySecret" -}}
{{- default (printf "%s-ray-token" (include "synthmix.fullname" .)) .Values.ray.existingSecret -}}
{{- end -}}
{{/* Of the user who has the bucket alone. */}}
{{- define "synthmix.objectStorageSecret" -}}
{{- default (printf "%s-object-storage-user" (include "synthmix.fullname" .)) .Values.objectStorage.existingSecret -}}
{{- end -}}

{{/* Of MinIO's root user: its pod's, and the Job's that makes the other user. Earlier charts gave these keys to every pod,
     which goes on with them in an upgrade until the Job has run. */}}
{{- define "synthmix.minioRootSecret" -}}
{{- default (printf "%s-object-storage" (include "synthmix.fullname" .)) .Values.objectStorage.existingRootSecret -}}
{{- end -}}

{{/* The service account whose tokens callers may ask for; "" if there is none. */}}
{{- define "synthmix.clientAccount" -}}
{{- if .Values.access.clients.enabled -}}
{{- default (printf "%s-client" (include "synthmix.fullname" .)) .Values.access.clients.serviceAccount -}}
{{- end -}}
{{- end -}}

{{/* What a generated Secret's key holds: what the cluster has already, or something new.
     (dict "root" $ "secret" name "key" key "length" n). */}}
{{- define "synthmix.keptOrRandom" -}}
{{- $live := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- if and $live (hasKey ($live.data | default dict) .key) -}}
{{- index $live.data .key -}}
{{- else -}}
{{- randAlphaNum (int .length) | b64enc -}}
{{- end -}}
{{- end -}}

{{- define "synthmix.rayCluster" -}}
{{ include "synthmix.fullname" . }}-ray
{{- end -}}
{{/* As KubeRay names it; without the operator the chart makes a Service of this name. */}}
{{- define "synthmix.rayHeadService" -}}
{{ include "synthmix.rayCluster" . }}-head-svc
{{- end -}}

{{/* Whether object storage is in the release: "true", or "". Both servers answer at the same address. */}}
{{- define "synthmix.ownObjectStorage" -}}
{{- if or .Values.objectStorage.minio.enabled .Values.objectStorage.seaweedfs.enabled -}}
true
{{- end -}}
{{- end -}}

{{- define "synthmix.objectStorageEndpoint" -}}
{{- if include "synthmix.ownObjectStorage" . -}}
{{ ternary "https" "http" .Values.tls.enabled }}://{{ include "synthmix.fullname" . }}-minio:9000
{{- else -}}
{{ .Values.objectStorage.endpoint }}
{{- end -}}
{{- end -}}

{{/* Pods and containers that Kubernetes's level "restricted" admits. The images' user has this number. */}}
{{- define "synthmix.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "synthmix.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What reaches object storage, and nothing else: all that the bucket's Job is given. */}}
{{- define "synthmix.objectStorageEnvironment" -}}
- {name: SYNTHMIX_OBJECT_STORE_ENDPOINT, value: {{ include "synthmix.objectStorageEndpoint" . | quote }}}
- {name: SYNTHMIX_OBJECT_STORE_BUCKET, value: {{ .Values.objectStorage.bucket | quote }}}
- {name: SYNTHMIX_OBJECT_STORE_REGION, value: {{ .Values.objectStorage.region | quote }}}
- name: SYNTHMIX_OBJECT_STORE_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ include "synthmix.objectStorageSecret" . }}, key: access-key}}
- name: SYNTHMIX_OBJECT_STORE_SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ include "synthmix.objectStorageSecret" . }}, key: secret-key}}
{{- with include "synthmix.objectStorageCa" . | trim }}
- {name: SYNTHMIX_OBJECT_STORE_CA, value: {{ . }}}
{{- end }}
{{- end -}}

{{/* The bytes that a Kubernetes quantity stands for. */}}
{{- define "synthmix.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 "m" 0.001 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- $number := regexFind "^[0-9.]+" (toString .) -}}
{{- mulf (float64 $number) (index $units (trimPrefix $number (toString .))) | int64 -}}
{{- end -}}

{{/* A container's resources, with ephemeral-storage for what its pod's volumes may hold, for its logs and for what it
     writes elsewhere, 1 GiB: (dict "resources" ... "volumes" (list quantity ...)). All of it is the limit; the request is
     a quarter of the volumes, which grow with what is done, so that a release with a GPU worker fits on a node with a
     disk of 100 GiB. What is given stays. */}}
{{- define "synthmix.resources" -}}
{{- $bytes := 0 -}}
{{- range .volumes }}{{ $bytes = add $bytes (include "synthmix.bytes" . | int64) }}{{ end -}}
{{- $resources := deepCopy .resources -}}
{{- range $part, $divisor := dict "requests" 4 "limits" 1 -}}
{{- $mebibytes := add 1024 (div (add (div $bytes $divisor) 1048575) 1048576) -}}
{{- $disk := dict "ephemeral-storage" (printf "%dMi" $mebibytes) -}}
{{- $_ := set $resources $part (merge (deepCopy (index $resources $part | default dict)) $disk) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* How much a cache may hold: less than its volume, beyond which the kubelet evicts the pod. */}}
{{- define "synthmix.cacheEnvironment" -}}
- {name: SYNTHMIX_CACHE_DIR, value: /var/cache/synthmix}
- {name: SYNTHMIX_CACHE_MOST_BYTES, value: {{ mulf (include "synthmix.bytes" . | float64) 0.9 | int64 | quote }}}
{{- end -}}

{{/* Environment that every process of SynthMix reads, front end or worker. */}}
{{- define "synthmix.environment" -}}
{{ include "synthmix.objectStorageEnvironment" . }}
- {name: RAY_AUTH_MODE, value: token}
- name: RAY_AUTH_TOKEN
  valueFrom: {secretKeyRef: {name: {{ include "synthmix.raySecret" . }}, key: auth_token}}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: SYNTHMIX_CACHE_FREE_PERCENT, value: {{ .Values.caches.freePercent | quote }}}
- {name: SYNTHMIX_UPLOAD_MOST_BYTES, value: {{ include "synthmix.bytes" .Values.imports.upload | quote }}}
- {name: SYNTHMIX_UPLOADS_MOST_BYTES, value: {{ include "synthmix.bytes" .Values.imports.uploads | quote }}}
- {name: SYNTHMIX_RECEIVING_MOST_BYTES, value: {{ include "synthmix.bytes" .Values.imports.receiving | quote }}}
- {name: SYNTHMIX_IMPORT_MOST_FILES, value: {{ .Values.imports.files | int64 | quote }}}
- {name: SYNTHMIX_IMPORT_MOST_BYTES, value: {{ include "synthmix.bytes" .Values.imports.size | quote }}}
- {name: SYNTHMIX_SWEEP_GRACE_HOURS, value: {{ .Values.objectStorage.sweep.graceHours | quote }}}
- {name: SYNTHMIX_SWEEP_UPLOAD_HOURS, value: {{ .Values.objectStorage.sweep.uploadHours | quote }}}
- {name: SYNTHMIX_SWEEP_CHECKPOINT_HOURS, value: {{ .Values.objectStorage.sweep.checkpointHours | quote }}}
- {name: SYNTHMIX_SWEEP_LAID_ASIDE_HOURS, value: {{ .Values.objectStorage.sweep.laidAsideHours | quote }}}
{{- with .Values.baseModels.folders }}
- {name: SYNTHMIX_BASE_MODEL_FOLDERS, value: {{ join ":" . | quote }}}
{{- end }}
- {name: SYNTHMIX_HUB_MODELS, value: {{ join " " .Values.baseModels.hub.models | quote }}}
- {name: SYNTHMIX_HUB_MODEL_MOST_FILES, value: {{ .Values.baseModels.hub.files | int64 | quote }}}
- {name: SYNTHMIX_HUB_MODEL_MOST_BYTES, value: {{ include "synthmix.bytes" .Values.baseModels.hub.size | quote }}}
- {name: SYNTHMIX_MODEL_MOST_BYTES, value: {{ include "synthmix.bytes" .Values.baseModels.imported.size | quote }}}
{{- $root := . }}
{{- range $service, $key := include "synthmix.services" . | fromYaml }}
- {name: SYNTHMIX_{{ $service | upper | replace "-" "_" }}_ADDRESS, value: "{{ include "synthmix.fullname" $root }}-{{ $service }}:50051"}
{{- end }}
{{- range $group, $key := include "synthmix.workerGroups" . | fromYaml }}
{{- $task := (index $root.Values.workers $key).task }}
- {name: SYNTHMIX_{{ $group | upper | replace "-" "_" }}_CPUS, value: {{ $task.cpus | quote }}}
- {name: SYNTHMIX_{{ $group | upper | replace "-" "_" }}_GPUS, value: {{ $task.gpus | quote }}}
{{- end }}
- {name: SYNTHMIX_OPERATIONS_AT_ONCE, value: {{ .Values.operations.atOnce | quote }}}
- {name: SYNTHMIX_OPERATIONS_AT_ONCE_EACH, value: {{ .Values.operations.atOnceEach | quote }}}
{{- include "synthmix.tlsCallerEnvironment" . }}
{{- with .Values.extraEnv }}
{{- $inside := list "localhost" "127.0.0.1" "$(KUBERNETES_SERVICE_HOST)" (printf "%s-minio" (include "synthmix.fullname" $root)) (include "synthmix.rayHeadService" $root) }}
{{- range $service, $key := include "synthmix.services" $root | fromYaml }}
{{- $inside = append $inside (printf "%s-%s" (include "synthmix.fullname" $root) $service) }}
{{- end }}
# Libraries read either spelling.
- {name: NO_PROXY, value: {{ join "," $inside | quote }}}
- {name: no_proxy, value: {{ join "," $inside | quote }}}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Spread over nodes where there are several: (dict "root" $ "component" "..."). */}}
{{- define "synthmix.topologySpread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "synthmix.selectorLabels" . | nindent 6 }}
{{- end -}}

{{/* (dict "root" $ "monitor" "serviceMonitor" "port" "9090" "container" name "extra" podAnnotations). Prometheus without its operator
     goes by annotations. */}}
{{- define "synthmix.podAnnotations" -}}
kubectl.kubernetes.io/default-container: {{ .container }}
{{- if not (index .root.Values.monitoring .monitor).enabled }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
{{- with .scheme }}
prometheus.io/scheme: {{ . }}
{{- end }}
{{- end }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}
