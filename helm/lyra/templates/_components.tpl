{{/* Components of which there are several, as YAML lists with what is fixed about each. A template ranges over a list and
     builds the context of its helpers from an item, `root` and `values`:

       {{- range include "lyra.modelServices" . | fromYamlArray }}
       {{- $context := merge (dict "root" $ "values" (index $.Values .section)) . }}
*/}}

{{/* Model services, in the order in which a request passes through them. `.`: root.
       section  section of the values
       module   Python module under services/
       service  gRPC service in lyra.v1
       callers  components that may call it
       metric   metric that an HPA scales on
       load     PromQL query that KEDA scales on */}}
{{- define "lyra.modelServices" -}}
{{- $series := include "lyra.seriesLabels" . -}}
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
         scale-down window. */}}
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

{{/* Workers of long-audio jobs.
       section  section of the values, under `worker`
       queues   queues that it consumes
       queue    queue whose length KEDA scales on */}}
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
