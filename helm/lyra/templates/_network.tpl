{{/* Network policies. Together they let through the arrows of docs/deploy/security.md and nothing else. */}}

{{/* Peer: the pods of a component. `.`: root, component. */}}
{{- define "lyra.peer" -}}
podSelector:
  matchLabels: {{- include "lyra.selector" . | nindent 4 }}
{{- end -}}

{{/* Begin of a policy of a component. */}}
{{- define "lyra.policyHead" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels: {{- include "lyra.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end -}}

{{/* Ingress rule: from these components to a port. `.`: root, from (a list), port. */}}
{{- define "lyra.fromComponents" -}}
{{- if .from -}}
- from:
    {{- range .from }}
    - {{- include "lyra.peer" (dict "root" $.root "component" .) | nindent 6 }}
    {{- end }}
  ports: [{protocol: TCP, port: {{ .port }}}]
{{- end -}}
{{- end -}}

{{/* Ingress rule: Prometheus to a port. `.`: root, port. */}}
{{- define "lyra.fromPrometheus" -}}
{{- with .root.Values.networkPolicy.prometheus -}}
- from: {{- toYaml . | nindent 4 }}
  ports: [{protocol: TCP, port: {{ $.port }}}]
{{- end -}}
{{- end -}}

{{/* Egress rule: to a component's port. `.`: root, to, port. */}}
{{- define "lyra.toComponent" -}}
- to:
    - {{- include "lyra.peer" (dict "root" .root "component" .to) | nindent 6 }}
  ports: [{protocol: TCP, port: {{ .port }}}]
{{- end -}}

{{/* Egress rules: to the model services that a component calls. `.`: root, component. */}}
{{- define "lyra.toModelServices" -}}
{{- range include "lyra.modelServices" .root | fromYamlArray }}
{{- if has $.component .callers }}
{{ include "lyra.toComponent" (dict "root" $.root "to" .component "port" (int .port)) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Egress rule: to DNS. */}}
{{- define "lyra.toDns" -}}
- to: {{- toYaml .root.Values.networkPolicy.dns | nindent 4 }}
  ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- end -}}

{{/* Egress rule: to an external store's port, on the networks named for stores or on any. `.`: root, port. */}}
{{- define "lyra.toExternal" -}}
-
  {{- with .root.Values.networkPolicy.stores }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
  ports: [{protocol: TCP, port: {{ .port }}}]
{{- end -}}

{{/* Egress rule: to Redis. */}}
{{- define "lyra.toRedis" -}}
{{- if eq .root.Values.redis.mode "bundled" -}}
{{- include "lyra.toComponent" (dict "root" .root "to" "redis" "port" 6379) -}}
{{- else -}}
{{- include "lyra.toExternal" (dict "root" .root "port" (int .root.Values.redis.external.port)) -}}
{{- end -}}
{{- end -}}

{{/* Egress rule: to the object store. */}}
{{- define "lyra.toStore" -}}
{{- if eq .root.Values.objectStore.mode "bundled" -}}
{{- include "lyra.toComponent" (dict "root" .root "to" "object-store" "port" 9000) -}}
{{- else -}}
{{- include "lyra.toExternal" (dict "root" .root "port" (include "lyra.storePort" .root)) -}}
{{- end -}}
{{- end -}}

{{/* Port of an external object store. */}}
{{- define "lyra.storePort" -}}
{{- $external := .Values.objectStore.external -}}
{{- regexFind ":[0-9]+$" $external.endpoint | trimPrefix ":" | default (ternary "443" "80" $external.secure) -}}
{{- end -}}

{{/* Egress rule: to public addresses over HTTPS, and over HTTP where that is allowed. */}}
{{- define "lyra.toInternet" -}}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: {{- toYaml .root.Values.networkPolicy.privateNetworks | nindent 10 }}
  ports:
    - {protocol: TCP, port: 443}
    {{- if .http }}
    - {protocol: TCP, port: 80}
    {{- end }}
{{- end -}}

{{/* Egress of what fetches weights. */}}
{{- define "lyra.weightsEgress" -}}
{{- $packages := and (eq .root.Values.weights.source "packages") (include "lyra.hasWeights" .) -}}
{{ include "lyra.toDns" . }}
{{- if include "lyra.readsStore" . }}
{{ include "lyra.toStore" . }}
{{- end }}
{{- if $packages }}
{{ include "lyra.toInternet" (dict "root" .root "http" false) }}
{{- end }}
{{- end -}}

{{/* NetworkPolicy of a worker or the clock. `.`: a worker's context, or without `queues` the clock's. */}}
{{- define "lyra.workerNetwork" -}}
{{- if .root.Values.networkPolicy.enabled -}}
{{ include "lyra.policyHead" . }}
  ingress:
    {{- include "lyra.fromPrometheus" (dict "root" .root "port" (include "lyra.workerMetricsPort" .)) | nindent 4 }}
  egress:
    {{- include "lyra.toDns" . | nindent 4 }}
    {{- include "lyra.toRedis" . | nindent 4 }}
    {{- if .queues }}
    {{- include "lyra.toStore" . | nindent 4 }}
    {{- end }}
    {{- with include "lyra.toModelServices" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- if eq .component "worker-plan" }}
    {{- $settings := mergeOverwrite (dict) (deepCopy .root.Values.sharedSettings) (deepCopy .root.Values.worker.settings) (deepCopy .values.settings) }}
    {{- include "lyra.toInternet" (dict "root" .root "http" (eq (toString $settings.LYRA_OUTBOUND_ALLOW_HTTP | lower) "true")) | nindent 4 }}
    {{- end }}
{{- end -}}
{{- end -}}
