{{/* Objects of workers, and of the clock (beat), whose context has no `queues`. */}}

{{/* Deployment of a worker or the clock. */}}
{{- define "lyra.workerDeployment" -}}
{{- $values := .values -}}
{{- $grace := ternary (int $values.longestUnitSeconds) 10 (not (empty .queues)) -}}
apiVersion: apps/v1
kind: Deployment
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  {{- if not .queues }}
  replicas: 1
  strategy: {type: Recreate}
  {{- else }}
  {{- if eq $values.autoscaling.mode "none" }}
  replicas: {{ int $values.replicas }}
  {{- end }}
  strategy: {{- include "lyra.deploymentStrategy" . | nindent 4 }}
  {{- end }}
  revisionHistoryLimit: 5
  selector:
    matchLabels: {{- include "lyra.selectorLabels" . | nindent 6 }}
  template:
    metadata: {{- include "lyra.podMetadata" . | nindent 6 }}
    spec:
      {{- include "lyra.commonPodSpec" . | nindent 6 }}
      terminationGracePeriodSeconds: {{ include "lyra.terminationGracePeriodSeconds" (dict "given" $values.terminationGracePeriodSeconds "minimum" $grace) }}
      containers:
        - name: {{ .component }}
          image: {{ include "lyra.image" (merge (dict "family" "services") .) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [python, -m, {{ ternary "services.worker" "services.worker.clock" (not (empty .queues)) }}]
          env: {{- include "lyra.workerEnv" (merge (dict "grace" $grace) .) | nindent 12 }}
          ports:
            - {name: metrics, containerPort: {{ include "lyra.workerMetricsPort" . }}, protocol: TCP}
          {{- include "lyra.httpProbes" (dict "path" "/metrics" "port" "metrics" "values" $values) | nindent 10 }}
          resources: {{- include "lyra.resources" . | nindent 12 }}
          securityContext: {{- include "lyra.containerSecurityContext" . | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: home, mountPath: /var/lib/lyra}
            {{- if include "lyra.callsServices" . }}
            {{- include "lyra.serviceAuthVolumeMounts" . | nindent 12 }}
            {{- end }}
            {{- with include "lyra.webhookVolumeMounts" .root | trim }}
            {{- . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          {{- include "lyra.scratchVolume" (ternary "8Gi" "256Mi" (eq .component "worker-plan")) | nindent 10 }}
        - name: home
          {{- include "lyra.scratchVolume" "64Mi" | nindent 10 }}
        {{- if include "lyra.callsServices" . }}
        {{- include "lyra.serviceAuthVolumes" . | nindent 8 }}
        {{- end }}
        {{- with include "lyra.webhookVolumes" .root | trim }}
        {{- . | nindent 8 }}
        {{- end }}
{{- end -}}

{{/* Non-empty if it calls model services; worker-plan and the clock do not. */}}
{{- define "lyra.callsServices" -}}
{{- range include "lyra.modelServices" .root | fromYamlArray }}
{{- if has $.component .callers -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* Environment of a worker or the clock. */}}
{{- define "lyra.workerEnv" -}}
{{ include "lyra.processEnv" . }}
- {name: LYRA_METRICS_PORT, value: {{ include "lyra.workerMetricsPort" . | quote }}}
{{- if .queues }}
- {name: LYRA_QUEUES, value: {{ .queues | quote }}}
- {name: LYRA_CONCURRENCY, value: {{ int .values.concurrency | quote }}}
{{- end }}
{{- include "lyra.modelServiceAddressesEnv" (dict "root" .root "components" (list "speech-encoder" "language-model")) }}
{{- if include "lyra.callsServices" . }}
{{ include "lyra.serviceAuthEnv" . }}
{{- end }}
{{ include "lyra.objectStoreEnv" . }}
{{- include "lyra.redisEnv" . }}
{{- include "lyra.webhookEnv" .root }}
{{- include "lyra.settingsEnv" (dict "settings" (list .root.Values.sharedSettings .root.Values.worker.settings .values.settings) "extra" .values.extraEnv) }}
{{- end -}}

{{/* Signing secrets of callbacks: environment, volume mounts and volumes; nothing if there are none. `.`: root. */}}
{{- define "lyra.webhookEnv" -}}
{{- if .Values.webhooks.existingSecret }}
- {name: LYRA_WEBHOOK_SECRETS_FILE, value: /etc/lyra/webhooks/webhook_secrets.json}
{{- end }}
{{- end -}}
{{- define "lyra.webhookVolumeMounts" -}}
{{- if .Values.webhooks.existingSecret }}
- {name: webhooks, mountPath: /etc/lyra/webhooks, readOnly: true}
{{- end }}
{{- end -}}
{{- define "lyra.webhookVolumes" -}}
{{- with .Values.webhooks.existingSecret }}
- name: webhooks
  secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: webhook_secrets.json, path: webhook_secrets.json}]}
{{- end }}
{{- end -}}

{{/* Headless Service of a worker or the clock; only Prometheus uses it. */}}
{{- define "lyra.workerService" -}}
apiVersion: v1
kind: Service
metadata: {{- include "lyra.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  selector: {{- include "lyra.selectorLabels" . | nindent 4 }}
  ports:
    - {name: metrics, port: {{ include "lyra.workerMetricsPort" . }}, targetPort: metrics, protocol: TCP}
{{- end -}}
