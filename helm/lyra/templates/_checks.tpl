{{/* What a schema cannot say. Each mistake ends rendering with the value's name and what to set. */}}

{{/* A quantity of Kubernetes (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/) as a number:
     bytes of memory, or cores. */}}
{{- define "lyra.number" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- mulf (trimSuffix $unit $text | float64) (index $factors $unit) -}}
{{- end -}}

{{/* All checks. */}}
{{- define "lyra.checks" -}}
{{- range include "lyra.modelServices" . | fromYamlArray -}}
{{- $context := merge (dict "root" $ "key" .section "values" (index $.Values .section)) . -}}
{{- include "lyra.checkModel" $context -}}
{{- include "lyra.checkReplicas" $context -}}
{{- include "lyra.checkGrace" (merge (dict "stream" "longestStreamSeconds" "least" (add (int $context.values.preStopSeconds) (int $context.values.longestStreamSeconds))) $context) -}}
{{- include "lyra.checkResources" $context -}}
{{- end -}}
{{- range include "lyra.workers" . | fromYamlArray -}}
{{- $context := dict "root" $ "key" (printf "worker.%s" .section) "values" (index $.Values.worker .section) -}}
{{- include "lyra.checkReplicas" $context -}}
{{- include "lyra.checkGrace" (merge (dict "stream" "longestUnitSeconds" "least" (int $context.values.longestUnitSeconds)) $context) -}}
{{- include "lyra.checkResources" $context -}}
{{- end -}}
{{- $gateway := dict "root" $ "key" "gateway" "values" .Values.gateway -}}
{{- include "lyra.checkReplicas" $gateway -}}
{{- include "lyra.checkGrace" (merge (dict "stream" "longestStreamSeconds" "least" (add (int .Values.gateway.preStopSeconds) (int .Values.gateway.longestStreamSeconds))) $gateway) -}}
{{- range $key, $values := dict "gateway" .Values.gateway "beat" .Values.beat "training" .Values.training "redis.bundled" .Values.redis.bundled "objectStore.bundled" .Values.objectStore.bundled -}}
{{- include "lyra.checkResources" (dict "key" $key "values" $values) -}}
{{- end -}}
{{- include "lyra.checkKeda" . -}}
{{- include "lyra.checkWeights" . -}}
{{- include "lyra.checkStores" . -}}
{{- include "lyra.checkEntrance" . -}}
{{- include "lyra.checkSecrets" . -}}
{{- end -}}

{{/* A preset with a checkpoint runs on GPUs, and in the memory that there is. */}}
{{- define "lyra.checkModel" -}}
{{- $preset := include "lyra.preset" . -}}
{{- $gpu := .values.gpu -}}
{{- if and (has $preset (list "mini" "base" "pro" "llama3")) (eq (int $gpu.count) 0) -}}
{{- fail (printf "%s.gpu.count is 0, and preset %s wants a GPU: set %s.gpu.count to at least 1, or preset to nano" .key $preset .key) -}}
{{- end -}}
{{- if gt (int $gpu.count) 1 -}}
{{- fail (printf "%s.gpu.count is %d, and a pod computes on one GPU: set it to 1, and more replicas" .key (int $gpu.count)) -}}
{{- end -}}
{{- $row := index (.root.Files.Get "files/presets.yaml" | fromYaml) $preset -}}
{{- if $row -}}
{{- $need := index $row .component -}}
{{- $limit := divf (include "lyra.number" .values.resources.limits.memory | float64) 1048576.0 -}}
{{- if lt $limit (float64 $need) -}}
{{- fail (printf "%s.resources.limits.memory is %s, and preset %s needs %d MiB there: set at least %dMi" .key (toString .values.resources.limits.memory) $preset (int $need) (int $need)) -}}
{{- end -}}
{{- $each := float64 $gpu.memoryGiB -}}
{{- with regexFind "[0-9]+gb" $gpu.resource -}}{{- $each = trimSuffix "gb" . | float64 -}}{{- end -}}
{{- $have := mulf $each 1024.0 -}}
{{- if and (gt $have 0.0) (lt $have (float64 $need)) -}}
{{- fail (printf "%s.gpu has %.0f MiB of memory (%s), and preset %s needs %d MiB: name a larger one" .key $have $gpu.resource $preset (int $need)) -}}
{{- end -}}
{{- if and (ne .root.Values.weights.source "volume") (lt (include "lyra.number" .root.Values.weights.cache.sizeLimit | float64) (mulf 1048576.0 (float64 $row.disk))) -}}
{{- fail (printf "weights.cache.sizeLimit is %s, and the weights of preset %s take %d MiB: set at least %dMi" (toString .root.Values.weights.cache.sizeLimit) $preset (int $row.disk) (int $row.disk)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* min <= max; nothing but keda scales to zero; a disruption budget leaves a pod to take away. */}}
{{- define "lyra.checkReplicas" -}}
{{- $auto := .values.autoscaling -}}
{{- $least := int .values.replicas -}}
{{- $from := printf "%s.replicas" .key -}}
{{- if ne $auto.mode "none" -}}
{{- $least = int $auto.minReplicas -}}
{{- $from = printf "%s.autoscaling.minReplicas" .key -}}
{{- if gt (int $auto.minReplicas) (int $auto.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas is %d, over maxReplicas %d: set maxReplicas to at least %d" .key (int $auto.minReplicas) (int $auto.maxReplicas) (int $auto.minReplicas)) -}}
{{- end -}}
{{- if and (eq $auto.mode "hpa") (eq (int $auto.minReplicas) 0) -}}
{{- fail (printf "%s.autoscaling.minReplicas is 0, which an HPA cannot do: set it to at least 1, or mode to keda" .key) -}}
{{- end -}}
{{- end -}}
{{- $budget := .values.podDisruptionBudget -}}
{{- if and $budget.enabled (regexMatch "^[0-9]+$" (toString $budget.minAvailable)) -}}
{{- if ge (int $budget.minAvailable) $least -}}
{{- fail (printf "%s.podDisruptionBudget.minAvailable is %d, and %s is %d: no node could ever be drained; set %s to at least %d, or maxUnavailable in its place" .key (int $budget.minAvailable) $from $least $from (add1 (int $budget.minAvailable))) -}}
{{- end -}}
{{- end -}}
{{- if .values.rollout -}}
{{- if and (eq (toString .values.rollout.maxSurge) "0") (eq (toString .values.rollout.maxUnavailable) "0") -}}
{{- fail (printf "%s.rollout lets no pod come and none go: set maxSurge or maxUnavailable to at least 1" .key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Nobody is killed in the middle of the longest stream. `least`: preStop and longest work, in seconds. */}}
{{- define "lyra.checkGrace" -}}
{{- $given := int .values.terminationGracePeriodSeconds -}}
{{- if $given -}}
{{- if le (int $given) (int .least) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d, and preStop and %s take %d s: set more than %d, or 0" .key (int $given) .stream (int .least) (int .least)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* requests <= limits. */}}
{{- define "lyra.checkResources" -}}
{{- $resources := .values.resources -}}
{{- range $name := list "cpu" "memory" -}}
{{- $request := index $resources.requests $name -}}
{{- $limit := index $resources.limits $name -}}
{{- if gt (include "lyra.number" $request | float64) (include "lyra.number" $limit | float64) -}}
{{- fail (printf "%s.resources.requests.%s is %s, over its limit %s: set the limit to at least that" $.key $name (toString $request) (toString $limit)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Who scales by Prometheus has to know where it is. */}}
{{- define "lyra.checkKeda" -}}
{{- if not .Values.monitoring.prometheus.address -}}
{{- range include "lyra.modelServices" . | fromYamlArray -}}
{{- if eq (index $.Values .section).autoscaling.mode "keda" -}}
{{- fail (printf "%s.autoscaling.mode is keda, which asks Prometheus: set monitoring.prometheus.address" .section) -}}
{{- end -}}
{{- end -}}
{{- range include "lyra.workers" . | fromYamlArray -}}
{{- if and (eq (index $.Values.worker .section).autoscaling.mode "keda") (eq $.Values.worker.trigger "prometheus") -}}
{{- fail (printf "worker.%s.autoscaling.mode is keda and worker.trigger is prometheus: set monitoring.prometheus.address, or worker.trigger to redis" .section) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Weights come from where they can come from. */}}
{{- define "lyra.checkWeights" -}}
{{- $weights := .Values.weights -}}
{{- range include "lyra.modelServices" . | fromYamlArray -}}
{{- $preset := include "lyra.preset" (dict "root" $ "values" (index $.Values .section)) -}}
{{- if and (eq $weights.source "packages") (not (has $preset (list "nano" "tiny" "tiny-qwen2-vl"))) -}}
{{- fail (printf "weights.source is packages, and preset %s of %s has no packages: set weights.source to objectStore or volume, and weights.name to the checkpoint's folder" $preset .section) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $weights.source "volume") (not $weights.volume.existingClaim) -}}
{{- fail "weights.source is volume: set weights.volume.existingClaim to the claim that has them" -}}
{{- end -}}
{{- if .Values.training.enabled -}}
{{- range list "dataClaim" "outClaim" -}}
{{- if not (index $.Values.training .) -}}{{- fail (printf "training.%s is empty: set it to the name of a PersistentVolumeClaim" .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* External stores have addresses. */}}
{{- define "lyra.checkStores" -}}
{{- if and (eq .Values.redis.mode "external") (not .Values.redis.external.host) -}}
{{- fail "redis.mode is external: set redis.external.host" -}}
{{- end -}}
{{- if and (eq .Values.objectStore.mode "external") (not .Values.objectStore.external.endpoint) -}}
{{- fail "objectStore.mode is external: set objectStore.external.endpoint to its host:port" -}}
{{- end -}}
{{- if and (not .Values.keys.create) (not .Values.keys.existingSecret) -}}
{{- fail "nobody would have a key: set keys.existingSecret to a Secret with keys.json, or keys.create to true" -}}
{{- end -}}
{{- end -}}

{{/* One way in from outside, and a whole one. */}}
{{- define "lyra.checkEntrance" -}}
{{- if and .Values.ingress.enabled .Values.gatewayApi.enabled -}}
{{- fail "ingress.enabled and gatewayApi.enabled are both true: set one of them to false" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.enabled is true: set ingress.host" -}}
{{- end -}}
{{- if and .Values.gatewayApi.enabled (not .Values.gatewayApi.parentRefs) -}}
{{- fail "gatewayApi.enabled is true: set gatewayApi.parentRefs to the Gateway that it belongs to" -}}
{{- end -}}
{{- end -}}

{{/* Secrets that values name are there. Only a cluster can tell: `helm template` sees none, and asks for none. */}}
{{- define "lyra.checkSecrets" -}}
{{- if lookup "v1" "Namespace" "" .Release.Namespace -}}
{{- $named := dict
  "keys.existingSecret" (list .Values.keys.existingSecret "keys.json")
  "serviceAuth.token.existingSecret" (list .Values.serviceAuth.token.existingSecret "token")
  "serviceAuth.operatorToken.existingSecret" (list .Values.serviceAuth.operatorToken.existingSecret "token")
  "serviceAuth.tls.existingSecret" (list .Values.serviceAuth.tls.existingSecret "tls.crt" "tls.key" "ca.crt")
  "webhooks.existingSecret" (list .Values.webhooks.existingSecret "webhook_secrets.json")
  "redis.bundled.existingSecret" (list (ternary .Values.redis.bundled.existingSecret "" (eq .Values.redis.mode "bundled")) "password")
  "redis.external.existingSecret" (list (ternary .Values.redis.external.existingSecret "" (eq .Values.redis.mode "external")) .Values.redis.external.passwordField)
  "objectStore.bundled.existingSecret" (list (ternary .Values.objectStore.bundled.existingSecret "" (eq .Values.objectStore.mode "bundled")) "access-key" "secret-key")
  "objectStore.external.existingSecret" (list (ternary .Values.objectStore.external.existingSecret "" (eq .Values.objectStore.mode "external")) .Values.objectStore.external.accessKeyField .Values.objectStore.external.secretKeyField) -}}
{{- range $value, $wanted := $named -}}
{{- $name := first $wanted -}}
{{- if $name -}}
{{- $there := lookup "v1" "Secret" $.Release.Namespace $name -}}
{{- if not $there -}}
{{- fail (printf "%s is %s, and there is no such Secret in namespace %s: make it, or empty the value" $value $name $.Release.Namespace) -}}
{{- end -}}
{{- range $field := rest $wanted -}}
{{- if not (hasKey ($there.data | default dict) $field) -}}
{{- fail (printf "%s is %s, and that Secret has no field %s: add it" $value $name $field) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
