{{/* Environment of a model service. LYRA_THREADS is the CPU limit because a container sees every core of its node.
     LYRA_DEVICE is explicit so that a pod without the GPU it needs fails instead of falling back to the CPU. */}}
{{- define "lyra.modelEnv" -}}
{{ include "lyra.processEnv" (merge (dict "grace" (int .values.longestStreamSeconds)) .) }}
- {name: LYRA_PORT, value: {{ int .port | quote }}}
- {name: LYRA_METRICS_PORT, value: {{ int .metricsPort | quote }}}
- name: LYRA_THREADS
  valueFrom: {resourceFieldRef: {containerName: {{ .component }}, resource: limits.cpu, divisor: "1"}}
- {name: LYRA_DEVICE, value: {{ ternary "cuda" "cpu" (gt (int .values.gpu.count) 0) }}}
{{ include "lyra.serviceAuthEnv" . }}
{{ include "lyra.weightsEnv" . }}
{{- include "lyra.settingsEnv" (dict "settings" (list .values.settings) "extra" .values.extraEnv) }}
{{- end -}}

{{/* Probes of a model service by gRPC health, which is NOT_SERVING while weights load and while the service drains. The
     kubelet cannot probe gRPC over TLS; with TLS it probes the same health over HTTP on the metrics port. */}}
{{- define "lyra.grpcProbes" -}}
{{- $probes := .values.probes -}}
{{- $own := printf "grpc: {port: %d, service: lyra.v1.%s}" (int .port) .service -}}
{{- $all := printf "grpc: {port: %d}" (int .port) -}}
{{- if .root.Values.serviceAuth.tls.existingSecret -}}
{{- $own = "httpGet: {path: /healthz, port: metrics}" -}}
{{- $all = $own -}}
{{- end -}}
startupProbe:
  {{ $own }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ divf (float64 $probes.startupSeconds) 5 | ceil | int }}
readinessProbe:
  {{ $own }}
  periodSeconds: {{ int $probes.readinessPeriodSeconds }}
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  {{ $all }}
  periodSeconds: {{ int $probes.livenessPeriodSeconds }}
  timeoutSeconds: 10
  failureThreshold: 3
{{- end -}}

{{/* Resource requests and limits, including GPUs or MIG slices. */}}
{{- define "lyra.gpuResources" -}}
{{- $gpu := .values.gpu -}}
requests:
  {{- toYaml .values.resources.requests | nindent 2 }}
  {{- if gt (int $gpu.count) 0 }}
  {{ $gpu.resource }}: {{ int $gpu.count }}
  {{- end }}
limits:
  {{- toYaml .values.resources.limits | nindent 2 }}
  {{- if gt (int $gpu.count) 0 }}
  {{ $gpu.resource }}: {{ int $gpu.count }}
  {{- end }}
{{- end -}}
