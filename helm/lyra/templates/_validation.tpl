{{/* Validation that values.schema.json cannot express. A failure names the value and what to set. `.` unless stated
     otherwise: a component's context with `key`, the path of its section in the values. */}}

{{/* A Kubernetes quantity (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/) as a number in
     its base unit: bytes or cores. */}}
{{- define "lyra.quantity" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- mulf (trimSuffix $unit $text | float64) (index $factors $unit) -}}
{{- end -}}

{{/* Runs every check. `.`: root. */}}
{{- define "lyra.validateValues" -}}
{{- range include "lyra.modelServices" . | fromYamlArray -}}
{{- $context := merge (dict "root" $ "key" .section "values" (index $.Values .section)) . -}}
{{- include "lyra.validateModelService" $context -}}
{{- include "lyra.validateReplicas" $context -}}
{{- include "lyra.validateGracePeriod" (merge (dict "stream" "longestStreamSeconds" "minimum" (add (int $context.values.preStopSeconds) (int $context.values.longestStreamSeconds))) $context) -}}
{{- include "lyra.validateResources" $context -}}
{{- end -}}
{{- range include "lyra.workers" . | fromYamlArray -}}
{{- $context := dict "root" $ "key" (printf "worker.%s" .section) "values" (index $.Values.worker .section) -}}
{{- include "lyra.validateReplicas" $context -}}
{{- include "lyra.validateGracePeriod" (merge (dict "stream" "longestUnitSeconds" "minimum" (int $context.values.longestUnitSeconds)) $context) -}}
{{- include "lyra.validateResources" $context -}}
{{- end -}}
{{- $gateway := dict "root" $ "key" "gateway" "values" .Values.gateway -}}
{{- include "lyra.validateReplicas" $gateway -}}
{{- include "lyra.validateGracePeriod" (merge (dict "stream" "longestStreamSeconds" "minimum" (add (int .Values.gateway.preStopSeconds) (int .Values.gateway.longestStreamSeconds))) $gateway) -}}
{{- range $key, $values := dict "gateway" .Values.gateway "beat" .Values.beat "training" .Values.training "redis.bundled" .Values.redis.bundled "objectStore.bundled" .Values.objectStore.bundled -}}
{{- include "lyra.validateResources" (dict "key" $key "values" $values) -}}
{{- end -}}
{{- include "lyra.validatePrometheusAddress" . -}}
{{- include "lyra.validateWeights" . -}}
{{- include "lyra.validateStores" . -}}
{{- include "lyra.validateIngress" . -}}
{{- include "lyra.validateSecrets" . -}}
{{- end -}}

{{/* Presets with a checkpoint need a GPU; every preset must fit its memory limit, GPU and cache. */}}
{{- define "lyra.validateModelService" -}}
{{- $preset := include "lyra.preset" . -}}
{{- $gpu := .values.gpu -}}
{{- if and (has $preset (list "mini" "base" "pro" "llama3")) (eq (int $gpu.count) 0) -}}
{{- fail (printf "%s.gpu.count is 0, and preset %s needs a GPU: set %s.gpu.count to at least 1, or preset to nano" .key $preset .key) -}}
{{- end -}}
{{- if gt (int $gpu.count) 1 -}}
{{- fail (printf "%s.gpu.count is %d, and a pod uses one GPU: set it to 1 and add replicas" .key (int $gpu.count)) -}}
{{- end -}}
{{- $row := index (.root.Files.Get "files/presets.yaml" | fromYaml) $preset -}}
{{- if $row -}}
{{- $required := index $row .component -}}
{{- $limit := divf (include "lyra.quantity" .values.resources.limits.memory | float64) 1048576.0 -}}
{{- if lt $limit (float64 $required) -}}
{{- fail (printf "%s.resources.limits.memory is %s, and preset %s needs %d MiB there: set at least %dMi" .key (toString .values.resources.limits.memory) $preset (int $required) (int $required)) -}}
{{- end -}}
{{- $memoryGiB := float64 $gpu.memoryGiB -}}
{{- with regexFind "[0-9]+gb" $gpu.resource -}}{{- $memoryGiB = trimSuffix "gb" . | float64 -}}{{- end -}}
{{- $available := mulf $memoryGiB 1024.0 -}}
{{- if and (gt $available 0.0) (lt $available (float64 $required)) -}}
{{- fail (printf "%s.gpu has %.0f MiB of memory (%s), and preset %s needs %d MiB: choose a larger one" .key $available $gpu.resource $preset (int $required)) -}}
{{- end -}}
{{- if and (ne .root.Values.weights.source "volume") (lt (include "lyra.quantity" .root.Values.weights.cache.sizeLimit | float64) (mulf 1048576.0 (float64 $row.disk))) -}}
{{- fail (printf "weights.cache.sizeLimit is %s, and the weights of preset %s take %d MiB: set at least %dMi" (toString .root.Values.weights.cache.sizeLimit) $preset (int $row.disk) (int $row.disk)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* minReplicas <= maxReplicas; only KEDA scales to zero; the PodDisruptionBudget must allow evictions, and the rollout
     must be able to proceed. */}}
{{- define "lyra.validateReplicas" -}}
{{- $auto := .values.autoscaling -}}
{{- $minimum := int .values.replicas -}}
{{- $from := printf "%s.replicas" .key -}}
{{- if ne $auto.mode "none" -}}
{{- $minimum = int $auto.minReplicas -}}
{{- $from = printf "%s.autoscaling.minReplicas" .key -}}
{{- if gt (int $auto.minReplicas) (int $auto.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas is %d, above maxReplicas %d: set maxReplicas to at least %d" .key (int $auto.minReplicas) (int $auto.maxReplicas) (int $auto.minReplicas)) -}}
{{- end -}}
{{- if and (eq $auto.mode "hpa") (eq (int $auto.minReplicas) 0) -}}
{{- fail (printf "%s.autoscaling.minReplicas is 0, which an HPA does not support: set it to at least 1, or mode to keda" .key) -}}
{{- end -}}
{{- end -}}
{{- $budget := .values.podDisruptionBudget -}}
{{- if and $budget.enabled (regexMatch "^[0-9]+$" (toString $budget.minAvailable)) -}}
{{- if ge (int $budget.minAvailable) $minimum -}}
{{- fail (printf "%s.podDisruptionBudget.minAvailable is %d, and %s is %d: nodes could never be drained; set %s to at least %d, or use maxUnavailable instead" .key (int $budget.minAvailable) $from $minimum $from (add1 (int $budget.minAvailable))) -}}
{{- end -}}
{{- end -}}
{{- if .values.rollout -}}
{{- if and (eq (toString .values.rollout.maxSurge) "0") (eq (toString .values.rollout.maxUnavailable) "0") -}}
{{- fail (printf "%s.rollout can never make progress: set maxSurge or maxUnavailable to at least 1" .key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The termination grace period covers preStop and the longest work, together `minimum` seconds. `.`: also `stream`, the
     name of the value with the longest work. */}}
{{- define "lyra.validateGracePeriod" -}}
{{- $given := int .values.terminationGracePeriodSeconds -}}
{{- if $given -}}
{{- if le (int $given) (int .minimum) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d, and preStop and %s take %d s: set more than %d, or 0" .key (int $given) .stream (int .minimum) (int .minimum)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* requests <= limits. */}}
{{- define "lyra.validateResources" -}}
{{- $resources := .values.resources -}}
{{- range $name := list "cpu" "memory" -}}
{{- $request := index $resources.requests $name -}}
{{- $limit := index $resources.limits $name -}}
{{- if gt (include "lyra.quantity" $request | float64) (include "lyra.quantity" $limit | float64) -}}
{{- fail (printf "%s.resources.requests.%s is %s, above its limit %s: raise the limit to at least that" $.key $name (toString $request) (toString $limit)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Scaling on Prometheus metrics needs the address of Prometheus. `.`: root. */}}
{{- define "lyra.validatePrometheusAddress" -}}
{{- if not .Values.monitoring.prometheus.address -}}
{{- range include "lyra.modelServices" . | fromYamlArray -}}
{{- if eq (index $.Values .section).autoscaling.mode "keda" -}}
{{- fail (printf "%s.autoscaling.mode is keda, which queries Prometheus: set monitoring.prometheus.address" .section) -}}
{{- end -}}
{{- end -}}
{{- range include "lyra.workers" . | fromYamlArray -}}
{{- if and (eq (index $.Values.worker .section).autoscaling.mode "keda") (eq $.Values.worker.trigger "prometheus") -}}
{{- fail (printf "worker.%s.autoscaling.mode is keda and worker.trigger is prometheus: set monitoring.prometheus.address, or worker.trigger to redis" .section) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The source of weights has the chosen presets, and claims are named. `.`: root. */}}
{{- define "lyra.validateWeights" -}}
{{- $weights := .Values.weights -}}
{{- range include "lyra.modelServices" . | fromYamlArray -}}
{{- $preset := include "lyra.preset" (dict "root" $ "values" (index $.Values .section)) -}}
{{- if and (eq $weights.source "packages") (not (has $preset (list "nano" "tiny" "tiny-qwen2-vl"))) -}}
{{- fail (printf "weights.source is packages, and preset %s of %s has no packages: set weights.source to objectStore or volume, and weights.name to the checkpoint's folder" $preset .section) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $weights.source "volume") (not $weights.volume.existingClaim) -}}
{{- fail "weights.source is volume: set weights.volume.existingClaim to the PersistentVolumeClaim with the weights" -}}
{{- end -}}
{{- if .Values.training.enabled -}}
{{- range list "dataClaim" "outClaim" -}}
{{- if not (index $.Values.training .) -}}{{- fail (printf "training.%s is empty: set it to the name of a PersistentVolumeClaim" .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* External stores have an address, and someone has an API key. `.`: root. */}}
{{- define "lyra.validateStores" -}}
{{- if and (eq .Values.redis.mode "external") (not .Values.redis.external.host) -}}
{{- fail "redis.mode is external: set redis.external.host" -}}
{{- end -}}
{{- if and (eq .Values.objectStore.mode "external") (not .Values.objectStore.external.endpoint) -}}
{{- fail "objectStore.mode is external: set objectStore.external.endpoint to its host:port" -}}
{{- end -}}
{{- if and (not .Values.keys.create) (not .Values.keys.existingSecret) -}}
{{- fail "there would be no API key: set keys.existingSecret to a Secret with keys.json, or keys.create to true" -}}
{{- end -}}
{{- end -}}

{{/* Ingress and Gateway API exclude each other, and the enabled one is complete. `.`: root. */}}
{{- define "lyra.validateIngress" -}}
{{- if and .Values.ingress.enabled .Values.gatewayApi.enabled -}}
{{- fail "ingress.enabled and gatewayApi.enabled are both true: set one of them to false" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.enabled is true: set ingress.host" -}}
{{- end -}}
{{- if and .Values.gatewayApi.enabled (not .Values.gatewayApi.parentRefs) -}}
{{- fail "gatewayApi.enabled is true: set gatewayApi.parentRefs to the Gateway of the HTTPRoute" -}}
{{- end -}}
{{- end -}}

{{/* Secrets named in the values exist and have the required keys. Needs a cluster: `helm template` skips it. `.`: root. */}}
{{- define "lyra.validateSecrets" -}}
{{- if lookup "v1" "Namespace" "" .Release.Namespace -}}
{{- $secrets := dict
  "keys.existingSecret" (list .Values.keys.existingSecret "keys.json")
  "serviceAuth.token.existingSecret" (list .Values.serviceAuth.token.existingSecret "token")
  "serviceAuth.operatorToken.existingSecret" (list .Values.serviceAuth.operatorToken.existingSecret "token")
  "serviceAuth.tls.existingSecret" (list .Values.serviceAuth.tls.existingSecret "tls.crt" "tls.key" "ca.crt")
  "webhooks.existingSecret" (list .Values.webhooks.existingSecret "webhook_secrets.json")
  "redis.bundled.existingSecret" (list (ternary .Values.redis.bundled.existingSecret "" (eq .Values.redis.mode "bundled")) "password")
  "redis.external.existingSecret" (list (ternary .Values.redis.external.existingSecret "" (eq .Values.redis.mode "external")) .Values.redis.external.passwordField)
  "objectStore.bundled.existingSecret" (list (ternary .Values.objectStore.bundled.existingSecret "" (eq .Values.objectStore.mode "bundled")) "access-key" "secret-key")
  "objectStore.external.existingSecret" (list (ternary .Values.objectStore.external.existingSecret "" (eq .Values.objectStore.mode "external")) .Values.objectStore.external.accessKeyField .Values.objectStore.external.secretKeyField) -}}
{{- range $value, $nameAndKeys := $secrets -}}
{{- $name := first $nameAndKeys -}}
{{- if $name -}}
{{- $secret := lookup "v1" "Secret" $.Release.Namespace $name -}}
{{- if not $secret -}}
{{- fail (printf "%s is %s, and there is no such Secret in namespace %s: create it, or clear the value" $value $name $.Release.Namespace) -}}
{{- end -}}
{{- range $key := rest $nameAndKeys -}}
{{- if not (hasKey ($secret.data | default dict) $key) -}}
{{- fail (printf "%s is %s, and that Secret has no key %s: add it" $value $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
