{{/* Names, labels and images. `.` unless stated otherwise: a component's context, i.e. root (the chart's top-level `.`),
     component and values (its section of the values). */}}

{{/* Prefix of every name: {release}-lyra, or the release name if it contains "lyra"; at most 40 characters. `.`: root. */}}
{{- define "lyra.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-lyra" .Release.Name) (contains "lyra" .Release.Name) -}}
{{- .Values.fullnameOverride | default $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of a component's objects. */}}
{{- define "lyra.componentName" -}}
{{- printf "%s-%s" (include "lyra.fullname" .root) .component -}}
{{- end -}}

{{/* Selector labels of a component's pods; immutable. */}}
{{- define "lyra.selectorLabels" -}}
app.kubernetes.io/name: lyra
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Additional selector of Services that receive calls; `lyra cluster drain` changes it to take a pod out of its Service.
     Not part of the selector of Deployments. */}}
{{- define "lyra.servingLabel" -}}
lyra-platform/serving: "true"
{{- end -}}

{{/* All labels of a component's objects. */}}
{{- define "lyra.labels" -}}
{{ include "lyra.podLabels" . }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Labels of pods: without the chart's version, whose change alone must not restart pods. */}}
{{- define "lyra.podLabels" -}}
{{ include "lyra.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: lyra
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Name, namespace and labels: the content of `metadata`. */}}
{{- define "lyra.metadata" -}}
name: {{ include "lyra.componentName" . }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "lyra.labels" . | nindent 2 }}
{{- end -}}

{{/* The same for an object that belongs to the whole release: its name is the fullname. */}}
{{- define "lyra.releaseMetadata" -}}
name: {{ include "lyra.fullname" .root }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "lyra.labels" . | nindent 2 }}
{{- end -}}

{{/* repository@digest if there is a digest, else repository:tag. `.`: repository, tag, digest. */}}
{{- define "lyra.imageReference" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end -}}

{{/* Image of a component: its own if set, else that of its family. `.`: also `family`, services or models. */}}
{{- define "lyra.image" -}}
{{- $images := .root.Values.image -}}
{{- $family := index $images .family -}}
{{- $own := .values.image | default dict -}}
{{- $variant := "" -}}
{{- if eq .family "models" -}}{{- $variant = ternary "-cuda" "-cpu" (gt (int (.values.gpu | default dict).count) 0) -}}{{- end -}}
{{- $tag := $own.tag | default $family.tag | default (printf "%s%s" .root.Chart.AppVersion $variant) -}}
{{- $digest := $own.digest | default (ternary "" $family.digest (or (ne ($own.tag | default "") "") (ne ($own.repository | default "") ""))) -}}
{{- $repository := $own.repository | default (printf "%s/%s" $images.registry $family.name) -}}
{{- include "lyra.imageReference" (dict "repository" $repository "tag" $tag "digest" $digest) -}}
{{- end -}}

{{/* Port on which workers and the clock serve health and metrics. */}}
{{- define "lyra.workerMetricsPort" -}}9155{{- end -}}

{{/* Preset of a model service: its own if set, else the release's. */}}
{{- define "lyra.preset" -}}
{{- .values.preset | default .root.Values.preset -}}
{{- end -}}

{{/* Name of a Secret: `existing` if set, else {fullname}-{suffix}, which the chart creates. `.`: root, existing, suffix. */}}
{{- define "lyra.secretName" -}}
{{- .existing | default (printf "%s-%s" (include "lyra.fullname" .root) .suffix) -}}
{{- end -}}
