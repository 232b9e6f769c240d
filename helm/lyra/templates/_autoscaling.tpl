{{/* Autoscalers, PodDisruptionBudgets and ServiceAccounts. `.` unless stated otherwise: a component's context (root,
     component, values). */}}

{{/* HorizontalPodAutoscaler if the mode is hpa, else nothing. `.`: also `metric`, either cpu or a metric of pods. */}}
{{- define "lyra.horizontalPodAutoscaler" -}}
{{- if eq .values.autoscaling.mode "hpa" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "lyra.componentName" . }}}
  minReplicas: {{ int .values.autoscaling.minReplicas }}
  maxReplicas: {{ int .values.autoscaling.maxReplicas }}
  metrics:
    {{- if eq .metric "cpu" }}
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ int .values.autoscaling.cpuPercent }}}}
    {{- else }}
    - type: Pods
      pods:
        metric: {name: {{ .metric }}}
        target: {type: AverageValue, averageValue: {{ .values.autoscaling.target | quote }}}
    {{- end }}
  behavior: {{- include "lyra.scalingBehavior" .values.autoscaling | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* `behavior` of an HPA: how fast it scales up and down. `.`: an `autoscaling` section of the values. */}}
{{- define "lyra.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: {{ int .scaleUp.stabilizationSeconds }}
  policies:
    - {type: Pods, value: {{ int .scaleUp.pods }}, periodSeconds: {{ int .scaleUp.periodSeconds }}}
scaleDown:
  stabilizationWindowSeconds: {{ int .scaleDown.stabilizationSeconds }}
  policies:
    - {type: Pods, value: {{ int .scaleDown.pods }}, periodSeconds: {{ int .scaleDown.periodSeconds }}}
{{- end -}}

{{/* ScaledObject if the mode is keda, else nothing; KEDA creates the HPA. `.`: also `triggers`, as YAML. */}}
{{- define "lyra.scaledObject" -}}
{{- $autoscaling := .values.autoscaling -}}
{{- if eq $autoscaling.mode "keda" -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "lyra.componentName" . }}}
  minReplicaCount: {{ int $autoscaling.minReplicas }}
  maxReplicaCount: {{ int $autoscaling.maxReplicas }}
  pollingInterval: {{ int $autoscaling.pollingSeconds }}
  cooldownPeriod: {{ int $autoscaling.cooldownSeconds }}
  # If the metric is unavailable, keep the pods that are running.
  fallback: {failureThreshold: 3, replicas: {{ max 1 (int $autoscaling.minReplicas) }}, behavior: currentReplicasIfHigher}
  advanced:
    restoreToOriginalReplicaCount: false
    horizontalPodAutoscalerConfig:
      name: {{ include "lyra.componentName" . }}
      behavior: {{- include "lyra.scalingBehavior" $autoscaling | nindent 8 }}
  triggers: {{- .triggers | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* Label matchers that select this release's time series in PromQL. `.`: root. */}}
{{- define "lyra.seriesLabels" -}}
namespace="{{ .Release.Namespace }}",job="{{ .Release.Name }}"
{{- end -}}

{{/* KEDA trigger on a Prometheus query. `.`: root, name, query, target, activation. */}}
{{- define "lyra.prometheusTrigger" -}}
- type: prometheus
  name: {{ .name }}
  metricType: AverageValue
  metadata:
    serverAddress: {{ .root.Values.monitoring.prometheus.address | quote }}
    query: {{ .query | quote }}
    threshold: {{ .target | quote }}
    activationThreshold: {{ .activation | quote }}
{{- end -}}

{{/* KEDA triggers of a model service: its load. A service that may scale to zero has two more: `wake` on calls that found
     no pod, and `awake` on recent calls, which are mostly too short for a scrape to see them running.
     `.`: a model service's context. */}}
{{- define "lyra.modelTriggers" -}}
{{- $series := include "lyra.seriesLabels" .root -}}
{{ include "lyra.prometheusTrigger" (dict "root" .root "name" "load" "query" .load "target" .values.autoscaling.target "activation" .values.autoscaling.activation) }}
{{- if eq (int .values.autoscaling.minReplicas) 0 }}
{{ include "lyra.prometheusTrigger" (dict "root" .root "name" "wake" "target" 1000000 "activation" 0
  "query" (printf "sum(increase(lyra_calls_unserved_total{%s,service=\"%s\"}[2m]))" $series .module)) }}
{{ include "lyra.prometheusTrigger" (dict "root" .root "name" "awake" "target" 1000000 "activation" 0
  "query" (printf "sum(increase(lyra_requests_total{%s,method=~\"/lyra.v1.%s/.*\"}[2m]))" $series .service)) }}
{{- end }}
{{- end -}}

{{/* KEDA trigger of a worker: units waiting in its queue, read from Redis or from the clock's metrics. `.`: a worker's
     context. */}}
{{- define "lyra.workerTriggers" -}}
{{- $autoscaling := .values.autoscaling -}}
{{- if eq .root.Values.worker.trigger "prometheus" -}}
{{ include "lyra.prometheusTrigger" (dict "root" .root "name" "units" "target" $autoscaling.target "activation" $autoscaling.activation
  "query" (printf "max(lyra_units_waiting{%s,queue=\"%s\"})" (include "lyra.seriesLabels" .root) .queue)) }}
{{- else -}}
{{- $external := and (eq .root.Values.redis.mode "external") .root.Values.redis.external -}}
- type: redis
  name: units
  metadata:
    address: {{ include "lyra.redisAddress" .root | quote }}
    {{- if include "lyra.redisSecretName" .root }}
    passwordFromEnv: REDIS_PASSWORD
    {{- end }}
    {{- if $external }}
    databaseIndex: {{ int $external.database | quote }}
    enableTLS: {{ $external.tls | quote }}
    {{- end }}
    listName: lyra:units:{{ .queue }}
    listLength: {{ $autoscaling.target | quote }}
    activationListLength: {{ $autoscaling.activation | quote }}
{{- end -}}
{{- end -}}

{{/* PodDisruptionBudget if enabled, else nothing. */}}
{{- define "lyra.podDisruptionBudget" -}}
{{- $budget := .values.podDisruptionBudget -}}
{{- if $budget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  {{- if ne ($budget.minAvailable | toString) "" }}
  minAvailable: {{ $budget.minAvailable }}
  {{- else }}
  maxUnavailable: {{ $budget.maxUnavailable }}
  {{- end }}
  selector:
    matchLabels: {{- include "lyra.selectorLabels" . | nindent 6 }}
  # Pods that are broken anyway must not block a node drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
{{- end -}}
{{- end -}}

{{/* ServiceAccount without a mounted token: no process of Lyra calls the API server. */}}
{{- define "lyra.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "lyra.metadata" . | nindent 2 }}
  {{- with (.values.serviceAccount | default dict).annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end -}}

{{/* Model services that may scale to zero, comma-separated, for LYRA_READY_WITHOUT. `.`: root. */}}
{{- define "lyra.readyWithout" -}}
{{- $names := list -}}
{{- range include "lyra.modelServices" . | fromYamlArray -}}
{{- $autoscaling := (index $.Values .section).autoscaling -}}
{{- if and (eq $autoscaling.mode "keda") (eq (int $autoscaling.minReplicas) 0) }}{{- $names = append $names .module }}{{- end -}}
{{- end -}}
{{- sortAlpha $names | join "," -}}
{{- end -}}

{{/* Non-empty if KEDA reads queue lengths from Redis. `.`: root. */}}
{{- define "lyra.kedaReadsRedis" -}}
{{- range include "lyra.workers" . | fromYamlArray -}}
{{- if and (eq (index $.Values.worker .section).autoscaling.mode "keda") (eq $.Values.worker.trigger "redis") -}}yes{{- end -}}
{{- end -}}
{{- end -}}
