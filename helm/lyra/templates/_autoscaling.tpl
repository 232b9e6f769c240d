{{/* Autoscalers. `.`: root, component, values, metric (what an HPA looks at), triggers (of KEDA, as YAML). */}}

{{/* HorizontalPodAutoscaler, where the mode is hpa. */}}
{{- define "lyra.hpa" -}}
{{- if eq .values.autoscaling.mode "hpa" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "lyra.name" . }}}
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
  behavior: {{- include "lyra.behavior" .values.autoscaling | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* How fast replicas come and go. `.`: an autoscaling section. */}}
{{- define "lyra.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: {{ int .scaleUp.stabilizationSeconds }}
  policies:
    - {type: Pods, value: {{ int .scaleUp.pods }}, periodSeconds: {{ int .scaleUp.periodSeconds }}}
scaleDown:
  stabilizationWindowSeconds: {{ int .scaleDown.stabilizationSeconds }}
  policies:
    - {type: Pods, value: {{ int .scaleDown.pods }}, periodSeconds: {{ int .scaleDown.periodSeconds }}}
{{- end -}}

{{/* KEDA's ScaledObject, where the mode is keda. It makes the HPA itself. */}}
{{- define "lyra.scaledObject" -}}
{{- $autoscaling := .values.autoscaling -}}
{{- if eq $autoscaling.mode "keda" -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "lyra.name" . }}}
  minReplicaCount: {{ int $autoscaling.minReplicas }}
  maxReplicaCount: {{ int $autoscaling.maxReplicas }}
  pollingInterval: {{ int $autoscaling.pollingSeconds }}
  cooldownPeriod: {{ int $autoscaling.cooldownSeconds }}
  # Where the metric cannot be had, what runs goes on running.
  fallback: {failureThreshold: 3, replicas: {{ max 1 (int $autoscaling.minReplicas) }}, behavior: currentReplicasIfHigher}
  advanced:
    restoreToOriginalReplicaCount: false
    horizontalPodAutoscalerConfig:
      name: {{ include "lyra.name" . }}
      behavior: {{- include "lyra.behavior" $autoscaling | nindent 8 }}
  triggers: {{- .triggers | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* Labels of this release's series, for a query. `.`: root. */}}
{{- define "lyra.series" -}}
namespace="{{ .Release.Namespace }}",job="{{ .Release.Name }}"
{{- end -}}

{{/* A trigger by Prometheus. `.`: root, name, query, target, activation. */}}
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

{{/* Triggers of a model service: its load, and where it may sleep what wakes it, calls that found nobody, and what keeps
     it awake, calls of the last minutes: most are too short to be seen running.
     `.`: a model service's context. */}}
{{- define "lyra.modelTriggers" -}}
{{- $series := include "lyra.series" .root -}}
{{ include "lyra.prometheusTrigger" (dict "root" .root "name" "load" "query" .load "target" .values.autoscaling.target "activation" .values.autoscaling.activation) }}
{{- if eq (int .values.autoscaling.minReplicas) 0 }}
{{ include "lyra.prometheusTrigger" (dict "root" .root "name" "wake" "target" 1000000 "activation" 0
  "query" (printf "sum(increase(lyra_calls_unserved_total{%s,service=\"%s\"}[2m]))" $series .module)) }}
{{ include "lyra.prometheusTrigger" (dict "root" .root "name" "awake" "target" 1000000 "activation" 0
  "query" (printf "sum(increase(lyra_requests_total{%s,method=~\"/lyra.v1.%s/.*\"}[2m]))" $series .service)) }}
{{- end }}
{{- end -}}

{{/* Trigger of a worker: units waiting in its queue, counted in Redis or told by the clock. `.`: root, values, queue. */}}
{{- define "lyra.workerTriggers" -}}
{{- $autoscaling := .values.autoscaling -}}
{{- if eq .root.Values.worker.trigger "prometheus" -}}
{{ include "lyra.prometheusTrigger" (dict "root" .root "name" "units" "target" $autoscaling.target "activation" $autoscaling.activation
  "query" (printf "max(lyra_units_waiting{%s,queue=\"%s\"})" (include "lyra.series" .root) .queue)) }}
{{- else -}}
{{- $external := and (eq .root.Values.redis.mode "external") .root.Values.redis.external -}}
- type: redis
  name: units
  metadata:
    address: {{ include "lyra.redisAddress" .root | quote }}
    {{- if include "lyra.redisSecret" .root }}
    passwordFromEnv: REDIS_PASSWORD
    {{- end }}
    {{- if $external }}
    databaseIndex: {{ int $external.database | quote }}
    enableTLS: {{ $external.tls | quote }}
    {{- end }}
    listName: lyra:celery:{{ .queue }}
    listLength: {{ $autoscaling.target | quote }}
    activationListLength: {{ $autoscaling.activation | quote }}
{{- end -}}
{{- end -}}

{{/* PodDisruptionBudget of a component. */}}
{{- define "lyra.budget" -}}
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
    matchLabels: {{- include "lyra.selector" . | nindent 6 }}
  # Pods that do not work anyway never hold a node back.
  unhealthyPodEvictionPolicy: AlwaysAllow
{{- end -}}
{{- end -}}

{{/* ServiceAccount of a component; without a token, since nothing of Lyra speaks to the API server. */}}
{{- define "lyra.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "lyra.metadata" . | nindent 2 }}
  {{- with (.values.serviceAccount | default dict).annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end -}}

{{/* Model services that may be at zero, as LYRA_READY_WITHOUT names them. */}}
{{- define "lyra.readyWithout" -}}
{{- $names := list -}}
{{- range include "lyra.modelServices" . | fromYamlArray -}}
{{- $autoscaling := (index $.Values .section).autoscaling -}}
{{- if and (eq $autoscaling.mode "keda") (eq (int $autoscaling.minReplicas) 0) }}{{- $names = append $names .module }}{{- end -}}
{{- end -}}
{{- sortAlpha $names | join "," -}}
{{- end -}}

{{/* "yes" where KEDA counts units in Redis itself. */}}
{{- define "lyra.kedaReadsRedis" -}}
{{- range include "lyra.workers" . | fromYamlArray -}}
{{- if and (eq (index $.Values.worker .section).autoscaling.mode "keda") (eq $.Values.worker.trigger "redis") -}}yes{{- end -}}
{{- end -}}
{{- end -}}
