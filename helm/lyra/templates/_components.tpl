{{/* The components that come in several: what is fixed about each, as a YAML list. A template ranges over it and makes its
     context of the item, `root` and `values`:

       {{- range include "lyra.modelServices" . | fromYamlArray }}
       {{- $context := merge (dict "root" $ "values" (index $.Values .section)) . }}
*/}}

{{/* Model services, in the order in which a request passes them. `section`: of the values; `module`: under services/;
     `service`: gRPC service; `callers`: components that may call it; `metric`: what an HPA looks at; `load`: the query that
     KEDA asks Prometheus. `.`: root. */}}
{{- define "lyra.modelServices" -}}
{{- $series := include "lyra.series" . -}}
- component: speech-encoder
  section: speechEncoder
  module: speech_encoder
  service: SpeechEncoder
  port: 50051
  metricsPort: 9151
  callers: [gateway, worker-clips]
  metric: lyra_audio_seconds_waiting
  load: sum(lyra_audio_seconds_waiting{ {{- $series }}})
- component: vision-encoder
  section: visionEncoder
  module: vision_encoder
  service: VisionEncoder
  port: 50052
  metricsPort: 9152
  callers: [gateway]
  metric: lyra_requests_running
  load: sum(lyra_requests_waiting{ {{- $series }},service="vision_encoder"}) + sum(lyra_model_running{ {{- $series }},service="vision_encoder"})
- component: language-model
  section: languageModel
  module: language_model
  service: LanguageModel
  port: 50053
  metricsPort: 9153
  callers: [gateway, worker-answers]
  metric: lyra_requests_running
  {{- /* Averaged over a minute: the number of calls at one moment is mostly noise, and its peaks would hold for the whole
         scale-down window. A trigger on free pages of the cache (lyra_cache_pages_free) belongs here once the engine has pages. */}}
  load: sum(avg_over_time(lyra_requests_waiting{ {{- $series }},service="language_model"}[1m])) + sum(avg_over_time(lyra_model_running{ {{- $series }},service="language_model"}[1m]))
- component: speech-synthesizer
  section: speechSynthesizer
  module: speech_synthesizer
  service: SpeechSynthesizer
  port: 50054
  metricsPort: 9154
  callers: [gateway]
  metric: lyra_requests_running
  load: sum(lyra_requests_waiting{ {{- $series }},service="speech_synthesizer"}) + sum(lyra_model_running{ {{- $series }},service="speech_synthesizer"})
{{- end -}}

{{/* Workers of long-audio jobs. `section`: under `worker` in the values; `queues`: all that it serves; `queue`: the one that
     KEDA scales it by. */}}
{{- define "lyra.workers" -}}
- component: worker-plan
  section: plan
  queues: plans,webhooks,housekeeping
  queue: plans
- component: worker-clips
  section: clips
  queues: clips
  queue: clips
- component: worker-answers
  section: answers
  queues: answers
  queue: answers
{{- end -}}
