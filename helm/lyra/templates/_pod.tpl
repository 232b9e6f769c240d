{{/* What the pods of all components have in common. `.` unless stated otherwise: a component's context. */}}

{{/* Security context of a pod: the restricted profile of the Pod Security Standards. */}}
{{- define "lyra.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Security context of a container. */}}
{{- define "lyra.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Labels and annotations: the content of a pod template's `metadata`. */}}
{{- define "lyra.podMetadata" -}}
labels:
  {{- include "lyra.podLabels" . | nindent 2 }}
  {{- include "lyra.servingLabel" . | nindent 2 }}
{{- with .values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Service account, image pull secrets, security context and scheduling: the first fields of a pod's `spec`. */}}
{{- define "lyra.commonPodSpec" -}}
serviceAccountName: {{ include "lyra.componentName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext: {{- include "lyra.podSecurityContext" . | nindent 2 }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "lyra.topologySpreadConstraints" . }}
{{- end -}}

{{/* Topology spread constraints with the component's selector filled in. */}}
{{- define "lyra.topologySpreadConstraints" -}}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    labelSelector:
      matchLabels: {{- include "lyra.selectorLabels" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Environment of every Lyra process. `.`: also `grace`, seconds to finish running work after SIGTERM. */}}
{{- define "lyra.processEnv" -}}
- {name: HOME, value: /tmp}
- {name: LYRA_HOME, value: /var/lib/lyra}
- {name: LYRA_HOST, value: 0.0.0.0}
- {name: LYRA_LOG_LEVEL, value: {{ .root.Values.logLevel }}}
- {name: LYRA_LOG_FORMAT, value: json}
- {name: LYRA_GRACE_SECONDS, value: {{ .grace | quote }}}
{{- end -}}

{{/* `settings` as environment variables, then `extraEnv`. `.`: settings (a list of maps, later ones win), extra. */}}
{{- define "lyra.settingsEnv" -}}
{{- $all := dict -}}
{{- range .settings }}{{- $all = mergeOverwrite $all (deepCopy (. | default dict)) }}{{- end -}}
{{- range $name, $value := $all }}
- {name: {{ $name }}, value: {{ ternary ($value | toString) (ternary ($value | int64 | toString) ($value | toString) (and (kindIs "float64" $value) (eq (floor $value) $value))) (kindIs "string" $value) | quote }}}
{{- end }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Environment variables for the object store. `.`: root. */}}
{{- define "lyra.objectStoreEnv" -}}
{{- $store := .root.Values.objectStore -}}
{{- $bundled := eq $store.mode "bundled" -}}
- {name: LYRA_STORE_ENDPOINT, value: {{ ternary (printf "%s-object-store:9000" (include "lyra.fullname" .root)) $store.external.endpoint $bundled | quote }}}
- {name: LYRA_STORE_SECURE, value: {{ and (not $bundled) $store.external.secure | quote }}}
- {name: LYRA_STORE_BUCKET, value: {{ $store.bucket | quote }}}
- {name: LYRA_STORE_REGION, value: {{ $store.region | quote }}}
{{- with $store.publicEndpoint }}
- {name: LYRA_STORE_PUBLIC_ENDPOINT, value: {{ . | quote }}}
- {name: LYRA_STORE_PUBLIC_SECURE, value: {{ $store.publicSecure | quote }}}
{{- end }}
{{- $secret := ternary (include "lyra.secretName" (dict "root" .root "existing" $store.bundled.existingSecret "suffix" "object-store")) $store.external.existingSecret $bundled }}
{{- with $secret }}
- name: LYRA_STORE_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ ternary "access-key" $store.external.accessKeyField $bundled }}}}
- name: LYRA_STORE_SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ ternary "secret-key" $store.external.secretKeyField $bundled }}}}
{{- end }}
{{- end -}}

{{/* Name of the Secret with the Redis password; empty if Redis has none. `.`: root. */}}
{{- define "lyra.redisSecretName" -}}
{{- $redis := .Values.redis -}}
{{- if eq $redis.mode "bundled" -}}
{{- include "lyra.secretName" (dict "root" . "existing" $redis.bundled.existingSecret "suffix" "redis") -}}
{{- else -}}
{{- $redis.external.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* host:port of Redis. `.`: root. */}}
{{- define "lyra.redisAddress" -}}
{{- if eq .Values.redis.mode "bundled" -}}
{{- include "lyra.fullname" . }}-redis.{{ .Release.Namespace }}.svc:6379
{{- else -}}
{{- .Values.redis.external.host }}:{{ .Values.redis.external.port | int }}
{{- end -}}
{{- end -}}

{{/* Environment variables for Redis. `.`: root. */}}
{{- define "lyra.redisEnv" -}}
{{- $external := .root.Values.redis.external -}}
{{- $bundled := eq .root.Values.redis.mode "bundled" -}}
{{- $secret := include "lyra.redisSecretName" .root -}}
{{- $user := "" -}}
{{- if $secret }}{{- $user = ":$(REDIS_PASSWORD)@" }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ ternary "password" $external.passwordField $bundled }}}}
{{- end }}
- {name: LYRA_REDIS_URL, value: {{ printf "%s://%s%s/%d" (ternary "rediss" "redis" (and (not $bundled) $external.tls)) $user (include "lyra.redisAddress" .root) (ternary 0 (int $external.database) $bundled) | quote }}}
{{- end -}}

{{/* Environment variables with the addresses of model services; the headless Service resolves to every pod.
     `.`: root, components (all if omitted). */}}
{{- define "lyra.modelServiceAddressesEnv" -}}
{{- range include "lyra.modelServices" .root | fromYamlArray }}
{{- if or (not $.components) (has .component $.components) }}
- {name: LYRA_{{ upper .module }}_ADDRESS, value: {{ printf "dns:///%s.%s.svc:%d" (include "lyra.componentName" (dict "root" $.root "component" .component)) $.root.Release.Namespace (int .port) | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* URL scheme of the gateway inside the cluster: http or https. `.`: root. */}}
{{- define "lyra.gatewayScheme" -}}
{{- ternary "https" "http" (ne .Values.gateway.tls.existingSecret "") -}}
{{- end -}}

{{/* Startup, readiness and liveness probes over HTTP. `.`: path, port, scheme (http by default), values. */}}
{{- define "lyra.httpProbes" -}}
{{- $probes := .values.probes -}}
{{- $scheme := ternary ", scheme: HTTPS" "" (eq (.scheme | default "http") "https") -}}
startupProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}{{ $scheme }}}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: {{ divf (float64 $probes.startupSeconds) 3 | ceil | int }}
readinessProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}{{ $scheme }}}
  periodSeconds: {{ int $probes.readinessPeriodSeconds }}
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}{{ $scheme }}}
  periodSeconds: {{ int $probes.livenessPeriodSeconds }}
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{/* terminationGracePeriodSeconds of a pod: `given` if not 0, else `minimum` (preStop and the longest work) and 15 s more. */}}
{{- define "lyra.terminationGracePeriodSeconds" -}}
{{- int .given | default (add (int .minimum) 15) -}}
{{- end -}}

{{/* Volume source of an emptyDir. `.`: its size limit. */}}
{{- define "lyra.scratchVolume" -}}
emptyDir: {sizeLimit: {{ . }}}
{{- end -}}

{{/* `strategy` of a Deployment. */}}
{{- define "lyra.deploymentStrategy" -}}
type: RollingUpdate
rollingUpdate: {maxSurge: {{ .values.rollout.maxSurge }}, maxUnavailable: {{ .values.rollout.maxUnavailable }}}
{{- end -}}
