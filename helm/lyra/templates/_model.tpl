{{/* Deployment of a model service. `.`: root, component, values. */}}
{{- define "lyra.modelDeployment" -}}
{{- $facts := include "lyra.modelFacts" .component | fromYaml -}}
{{- $values := .values -}}
apiVersion: apps/v1
kind: Deployment
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  {{- if eq $values.autoscaling.mode "none" }}
  replicas: {{ int $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  progressDeadlineSeconds: {{ add (int $values.probes.startupSeconds) 600 }}
  strategy: {{- include "lyra.rollout" . | nindent 4 }}
  selector:
    matchLabels: {{- include "lyra.selector" . | nindent 6 }}
  template:
    metadata: {{- include "lyra.podMetadata" . | nindent 6 }}
    spec:
      {{- include "lyra.placement" . | nindent 6 }}
      terminationGracePeriodSeconds: {{ include "lyra.termination" (dict "given" $values.terminationGracePeriodSeconds "least" (add (int $values.preStopSeconds) (int $values.longestStreamSeconds))) }}
      {{- with include "lyra.weightsInit" . }}
      initContainers: {{- . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "lyra.image" (merge (dict "family" "models") .) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [python, -m, services.{{ $facts.module }}]
          env: {{- include "lyra.modelEnv" . | nindent 12 }}
          ports:
            - {name: grpc, containerPort: {{ int $facts.port }}, protocol: TCP}
            - {name: metrics, containerPort: {{ int $facts.metrics }}, protocol: TCP}
          {{- include "lyra.grpcProbes" . | nindent 10 }}
          lifecycle:
            preStop: {sleep: {seconds: {{ int $values.preStopSeconds }}}}
          resources: {{- include "lyra.gpuResources" . | nindent 12 }}
          securityContext: {{- include "lyra.containerSecurity" . | nindent 12 }}
          volumeMounts:
            {{- include "lyra.homeMounts" . | nindent 12 }}
            {{- include "lyra.serviceAuthMounts" . | nindent 12 }}
      volumes:
        {{- include "lyra.homeVolumes" . | nindent 8 }}
        {{- include "lyra.serviceAuthVolumes" . | nindent 8 }}
{{- end -}}

{{/* Environment of a model service. LYRA_THREADS is the CPU limit: a container sees every core of its node. A pod that was
     given no GPU where one is wanted says so and ends, and does not compute on its CPU for ever. */}}
{{- define "lyra.modelEnv" -}}
{{- $facts := include "lyra.modelFacts" .component | fromYaml -}}
{{ include "lyra.processEnv" (merge (dict "grace" (int .values.longestStreamSeconds)) .) }}
- {name: LYRA_PORT, value: {{ int $facts.port | quote }}}
- {name: LYRA_METRICS_PORT, value: {{ int $facts.metrics | quote }}}
- name: LYRA_THREADS
  valueFrom: {resourceFieldRef: {containerName: {{ .component }}, resource: limits.cpu, divisor: "1"}}
- {name: LYRA_DEVICE, value: {{ ternary "cuda" "cpu" (gt (int .values.gpu.count) 0) }}}
{{ include "lyra.serviceAuthEnv" . }}
{{ include "lyra.weightsEnv" . }}
{{- include "lyra.settingsEnv" (dict "settings" (list .values.settings) "extra" .values.extraEnv) }}
{{- end -}}

{{/* gRPC health decides: not serving while weights load and while the service drains. Kubelets do not speak it over TLS:
     there they ask for it beside the metrics. */}}
{{- define "lyra.grpcProbes" -}}
{{- $facts := include "lyra.modelFacts" .component | fromYaml -}}
{{- $probes := .values.probes -}}
{{- $own := printf "grpc: {port: %d, service: lyra.v1.%s}" (int $facts.port) $facts.service -}}
{{- $all := printf "grpc: {port: %d}" (int $facts.port) -}}
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

{{/* Requests and limits with GPUs: whole ones, or slices by their resource name. */}}
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

{{/* Headless Service: clients see every pod that is ready and go round them. */}}
{{- define "lyra.modelService" -}}
{{- $facts := include "lyra.modelFacts" .component | fromYaml -}}
apiVersion: v1
kind: Service
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  selector:
    {{- include "lyra.selector" . | nindent 4 }}
    {{- include "lyra.serving" . | nindent 4 }}
  ports:
    - {name: grpc, port: {{ int $facts.port }}, targetPort: grpc, protocol: TCP, appProtocol: {{ ternary "https" "kubernetes.io/h2c" (ne .root.Values.serviceAuth.tls.existingSecret "") }}}
    - {name: metrics, port: {{ int $facts.metrics }}, targetPort: metrics, protocol: TCP}
{{- end -}}
