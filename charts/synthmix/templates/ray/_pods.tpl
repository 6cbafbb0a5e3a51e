{{/* Ray's pods, the same under the KubeRay operator and without it. Each is a pod template's content. */}}

{{/* What a Ray container has besides its command: (dict "root" $ "values" ... "annotations" ...). */}}
{{- define "synthmix.rayContainer" -}}
image: {{ include "synthmix.image" (dict "root" .root "image" .root.Values.images.worker) }}
imagePullPolicy: {{ .root.Values.images.worker.pullPolicy }}
env:
  {{- include "synthmix.environment" .root | nindent 2 }}
  # In a container Ray takes its disk for empty unless it is told to look.
  - {name: RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE, value: "1"}
resources:
  {{- toYaml .values.resources | nindent 2 }}
securityContext:
  {{- include "synthmix.containerSecurityContext" .root | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: shared-memory, mountPath: /dev/shm}
  - {name: cache, mountPath: /var/cache/synthmix}
{{- end -}}

{{/* What a Ray pod has besides its container: (dict "root" $ "values" ...). */}}
{{- define "synthmix.rayPod" -}}
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
  - {name: tmp, emptyDir: {}}
  - {name: shared-memory, emptyDir: {medium: Memory, sizeLimit: {{ .values.sharedMemory }}}}
  - {name: cache, emptyDir: {sizeLimit: {{ .values.cache }}}}
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

{{/* Ray node labels, by which tasks and coordinators find their place. */}}
{{- define "synthmix.headRayLabels" -}}
synthmix.io/coordinators: "true"
synthmix.io/study-control: "true"
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
