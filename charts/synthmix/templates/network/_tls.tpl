{{/* The certificate of the front ends and of object storage, with its key and its authority. */}}
{{- define "synthmix.tlsSecret" -}}
{{- default (printf "%s-services-tls" (include "synthmix.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{/* The names by which pods of the release know a server: its Service's, and longer ones. (dict "root" $ "server" "..."). */}}
{{- define "synthmix.tlsNames" -}}
{{- $name := printf "%s-%s" (include "synthmix.fullname" .root) .server }}
- {{ $name }}
- {{ $name }}.{{ .root.Release.Namespace }}
- {{ $name }}.{{ .root.Release.Namespace }}.svc
- {{ $name }}.{{ .root.Release.Namespace }}.svc.cluster.local
{{- end -}}

{{/* The authority by which a pod trusts front ends. */}}
{{- define "synthmix.tlsCallerEnvironment" -}}
{{- if .Values.tls.enabled }}
- {name: SYNTHMIX_TLS_CA, value: /etc/synthmix/tls/ca.crt}
{{- end }}
{{- end -}}

{{/* What a front end shows. */}}
{{- define "synthmix.tlsServerEnvironment" -}}
{{- if .Values.tls.enabled }}
- {name: SYNTHMIX_TLS_CERTIFICATE, value: /etc/synthmix/tls/tls.crt}
- {name: SYNTHMIX_TLS_KEY, value: /etc/synthmix/tls/tls.key}
{{- end }}
{{- end -}}

{{/* The authority by which a pod trusts object storage. */}}
{{- define "synthmix.objectStorageCa" -}}
{{- if include "synthmix.ownObjectStorage" . }}
{{- if .Values.tls.enabled }}/etc/synthmix/tls/ca.crt{{ end }}
{{- else if .Values.objectStorage.caSecret -}}
/etc/synthmix/object-storage/ca.crt
{{- end }}
{{- end -}}

{{- define "synthmix.tlsMounts" -}}
{{- if .Values.tls.enabled }}
- {name: tls, mountPath: /etc/synthmix/tls, readOnly: true}
{{- end }}
{{- if and .Values.objectStorage.caSecret (not (include "synthmix.ownObjectStorage" .)) }}
- {name: object-storage-ca, mountPath: /etc/synthmix/object-storage, readOnly: true}
{{- end }}
{{- end -}}

{{/* The volumes of these mounts: (dict "root" $ "serves" bool). Whoever does not serve has no key. */}}
{{- define "synthmix.tlsVolumes" -}}
{{- if .root.Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "synthmix.tlsSecret" .root }}
    defaultMode: 0440
    {{- if not .serves }}
    items: [{key: ca.crt, path: ca.crt}]
    {{- end }}
{{- end }}
{{- if and .root.Values.objectStorage.caSecret (not (include "synthmix.ownObjectStorage" .root)) }}
- name: object-storage-ca
  secret: {secretName: {{ .root.Values.objectStorage.caSecret }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end -}}

{{/* The kubelet asks a front end for its health by gRPC, which it speaks without TLS only, or over HTTP. */}}
{{- define "synthmix.healthProbe" -}}
{{- if .Values.tls.enabled -}}
httpGet: {path: /healthz, port: metrics}
timeoutSeconds: 5
{{- else -}}
grpc: {port: 50051}
{{- end }}
{{- end -}}
