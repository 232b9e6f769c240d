{{/* What objects, labels and images are called. `.` of most: root (the chart's own `.`), component, values (its section). */}}

{{/* Begin of every name: {release}-lyra, or the release alone where it says lyra already; at most 40 characters. */}}
{{- define "lyra.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-lyra" .Release.Name) (contains "lyra" .Release.Name) -}}
{{- .Values.fullnameOverride | default $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of a component's objects. */}}
{{- define "lyra.name" -}}
{{- printf "%s-%s" (include "lyra.fullname" .root) .component -}}
{{- end -}}

{{/* Labels by which a component's pods are found; they never change. */}}
{{- define "lyra.selector" -}}
app.kubernetes.io/name: lyra
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* By this, too, a Service that takes calls finds its pods; `lyra cluster drain` takes one out. Not a selector of pods. */}}
{{- define "lyra.serving" -}}
lyra-platform/serving: "true"
{{- end -}}

{{/* All labels of a component's objects. */}}
{{- define "lyra.labels" -}}
{{ include "lyra.podLabels" . }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Labels of pods: without the chart's version, which alone is no reason to start a pod again. */}}
{{- define "lyra.podLabels" -}}
{{ include "lyra.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: lyra
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Name, namespace and labels, under `metadata:`. */}}
{{- define "lyra.metadata" -}}
name: {{ include "lyra.name" . }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "lyra.labels" . | nindent 2 }}
{{- end -}}

{{/* The same for what belongs to no one component: it has the fullname alone. */}}
{{- define "lyra.sharedMetadata" -}}
name: {{ include "lyra.fullname" .root }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "lyra.labels" . | nindent 2 }}
{{- end -}}

{{/* repository:tag, or repository@digest where there is one. `.`: repository, tag, digest. */}}
{{- define "lyra.reference" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end -}}

{{/* Image of a component: its own, or its family's. `family`: services or models. */}}
{{- define "lyra.image" -}}
{{- $images := .root.Values.image -}}
{{- $family := index $images .family -}}
{{- $own := .values.image | default dict -}}
{{- $variant := "" -}}
{{- if eq .family "models" -}}{{- $variant = ternary "-cuda" "-cpu" (gt (int (.values.gpu | default dict).count) 0) -}}{{- end -}}
{{- $tag := $own.tag | default $family.tag | default (printf "%s%s" .root.Chart.AppVersion $variant) -}}
{{- $digest := $own.digest | default (ternary "" $family.digest (or (ne ($own.tag | default "") "") (ne ($own.repository | default "") ""))) -}}
{{- $repository := $own.repository | default (printf "%s/%s" $images.registry $family.name) -}}
{{- include "lyra.reference" (dict "repository" $repository "tag" $tag "digest" $digest) -}}
{{- end -}}

{{/* Port of health and metrics of workers and clock. */}}
{{- define "lyra.workerMetricsPort" -}}9155{{- end -}}

{{/* Preset that a model service runs. */}}
{{- define "lyra.preset" -}}
{{- .values.preset | default .root.Values.preset -}}
{{- end -}}

{{/* Name of a Secret: `existing`, or `{fullname}-{suffix}` that the chart makes. */}}
{{- define "lyra.secretName" -}}
{{- .existing | default (printf "%s-%s" (include "lyra.fullname" .root) .suffix) -}}
{{- end -}}
