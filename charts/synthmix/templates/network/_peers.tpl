{{- define "synthmix.workerComponents" -}}
{{- range $group, $key := include "synthmix.workerGroups" . | fromYaml }}
- {{ $group }}-worker
{{- end }}
{{- end -}}

{{/* Every Ray pod of this release, as NetworkPolicy peers. */}}
{{- define "synthmix.rayPeers" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: {{ include "synthmix.name" . }}
      app.kubernetes.io/instance: {{ .Release.Name }}
    matchExpressions:
      - key: app.kubernetes.io/component
        operator: In
        values: {{ concat (list "ray-head") (include "synthmix.workerComponents" . | fromYamlArray) | toJson }}
{{- end -}}

{{/* Calls through an ingress or a gateway come from its pods, which the policies have to let in. */}}
{{- define "synthmix.requireCallers" -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.callers) }}
{{- fail "\n\nnetworkPolicy.callers is empty, so no call would get through the ingress or gateway: name the namespace of its pods, as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}].\n" }}
{{- end }}
{{- end -}}

{{/* An egress rule to what lies outside, as values name it: {cidrs: [...], ports: [...]}. What 0.0.0.0/0 leaves out is in
     `except`; Kubernetes refuses it with ranges that it is no part of. */}}
{{- define "synthmix.toOutside" -}}
- to:
    {{- $except := .except }}
    {{- range .cidrs }}
    - ipBlock: {cidr: {{ . }}{{ if and $except (eq . "0.0.0.0/0") }}, except: {{ $except | toJson }}{{ end }}}
    {{- end }}
  ports:
    {{- range .ports }}
    - {port: {{ . }}}
    {{- end }}
{{- end -}}

{{- define "synthmix.toKubernetesApi" -}}
{{- include "synthmix.toOutside" .Values.networkPolicy.kubernetesApi }}
{{- end -}}

{{- define "synthmix.toBaseModelHub" -}}
{{- if .Values.networkPolicy.baseModelHub.enabled }}
{{- include "synthmix.toOutside" .Values.networkPolicy.baseModelHub }}
{{- end }}
{{- end -}}

{{- define "synthmix.toObjectStorage" -}}
{{- if not (include "synthmix.ownObjectStorage" .) }}
{{- include "synthmix.toOutside" .Values.networkPolicy.objectStorage }}
{{- end }}
{{- end -}}

{{/* Which front end answers which gRPC service. study_control passes on what it is asked about others' operations. */}}
{{- define "synthmix.grpcRoutes" -}}
synthmix.adapters.v1.AdapterService: adapter-training
synthmix.base_models.v1.BaseModelService: adapter-training
synthmix.image_sets.v1.ImageSetService: image-synthesis
synthmix.evaluations.v1.EvaluationService: classifier-evaluation
synthmix.studies.v1.StudyService: study-control
synthmix.datasets.v1.DatasetService: study-control
synthmix.artifacts.v1.ArtifactService: study-control
synthmix.clusters.v1.ClusterService: study-control
google.longrunning.Operations: study-control
grpc.health.v1.Health: study-control
grpc.reflection.v1alpha.ServerReflection: study-control
{{- end -}}
