{{/* Who may call the front ends, and how services call one another. */}}

{{/* What services show one another are tokens of their service accounts, for an audience that nothing else takes. */}}
{{- define "synthmix.servicesAudience" -}}
{{ .Release.Namespace }}-{{ include "synthmix.fullname" . }}-services
{{- end -}}

{{/* Who call other services: study-control, and the hosts of operations on Ray's head. As the cluster names them. */}}
{{- define "synthmix.callingAccounts" -}}
{{- $prefix := printf "system:serviceaccount:%s:%s" .Release.Namespace (include "synthmix.fullname" .) -}}
{{ $prefix }}-study-control,{{ $prefix }}-ray-head
{{- end -}}

{{/* How a front end knows its callers. */}}
{{- define "synthmix.callersEnvironment" -}}
- {name: SYNTHMIX_TOKEN_FOLDER, value: /etc/synthmix/token}
- {name: SYNTHMIX_TOKEN_OWNER, value: shared-token}
{{- if .Values.access.kubernetes.enabled }}
- {name: SYNTHMIX_KUBERNETES_AUDIENCE, value: {{ .Values.access.kubernetes.audience | quote }}}
- {name: SYNTHMIX_SERVICES_AUDIENCE, value: {{ include "synthmix.servicesAudience" . }}}
- {name: SYNTHMIX_SERVICE_ACCOUNTS, value: "{{ include "synthmix.callingAccounts" . }}"}
- {name: SYNTHMIX_ROLE_PREFIX, value: {{ .Release.Namespace }}-{{ include "synthmix.fullname" . }}}
{{- end }}
{{- end -}}

{{/* What a process shows to a service that it calls: its account's token, or the static one where the cluster's are not
     accepted. */}}
{{- define "synthmix.callingEnvironment" -}}
{{- if .Values.access.kubernetes.enabled -}}
- {name: SYNTHMIX_SERVICE_TOKEN_FILE, value: /var/run/secrets/synthmix.io/services/token}
{{- else -}}
- {name: SYNTHMIX_TOKEN_FOLDER, value: /etc/synthmix/token}
{{- end }}
{{- end -}}

{{/* Files and not environment: the kubelet replaces them, and what a process has started does not inherit them. */}}
{{- define "synthmix.staticTokenMount" -}}
- {name: static-token, mountPath: /etc/synthmix/token, readOnly: true}
{{- end -}}
{{- define "synthmix.staticTokenVolume" -}}
- {name: static-token, secret: {secretName: {{ include "synthmix.tokenSecret" . }}, defaultMode: 0440}}
{{- end -}}
{{- define "synthmix.serviceTokenMount" -}}
- {name: service-token, mountPath: /var/run/secrets/synthmix.io/services, readOnly: true}
{{- end -}}
{{- define "synthmix.serviceTokenVolume" -}}
- name: service-token
  projected:
    sources:
      - serviceAccountToken: {path: token, audience: {{ include "synthmix.servicesAudience" . }}, expirationSeconds: 3600}
{{- end -}}
{{- define "synthmix.callingMount" -}}
{{ include (ternary "synthmix.serviceTokenMount" "synthmix.staticTokenMount" .Values.access.kubernetes.enabled) . }}
{{- end -}}
{{- define "synthmix.callingVolume" -}}
{{ include (ternary "synthmix.serviceTokenVolume" "synthmix.staticTokenVolume" .Values.access.kubernetes.enabled) . }}
{{- end -}}

{{/* What Kubernetes mounts into every container of a pod by itself, for the one that calls its API. */}}
{{- define "synthmix.kubernetesApiMount" -}}
- {name: kubernetes-api, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end -}}
{{- define "synthmix.kubernetesApiVolume" -}}
- name: kubernetes-api
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]}
{{- end -}}
