{{/* Authentication between services: token and certificate files. `.` unless stated otherwise: a component's context. */}}

{{/* Name of the Secret with the service token. `.`: root. */}}
{{- define "lyra.serviceTokenSecretName" -}}
{{- include "lyra.secretName" (dict "root" . "existing" .Values.serviceAuth.token.existingSecret "suffix" "service-token") -}}
{{- end -}}

{{/* Non-empty if the component checks the operator token. */}}
{{- define "lyra.checksOperatorToken" -}}
{{- if and .root.Values.serviceAuth.operatorToken.existingSecret (has .component (list "language-model" "speech-encoder")) -}}yes{{- end -}}
{{- end -}}

{{/* Environment variables with the paths of the files. */}}
{{- define "lyra.serviceAuthEnv" -}}
{{- $tls := .root.Values.serviceAuth.tls -}}
- {name: LYRA_SERVICE_TOKEN_FILE, value: /etc/lyra/service-token/token}
{{- if include "lyra.checksOperatorToken" . }}
- {name: LYRA_OPERATOR_TOKEN_FILE, value: /etc/lyra/operator-token/token}
{{- end }}
{{- if $tls.existingSecret }}
- {name: LYRA_SERVICE_TLS_CERT_FILE, value: /etc/lyra/service-tls/tls.crt}
- {name: LYRA_SERVICE_TLS_KEY_FILE, value: /etc/lyra/service-tls/tls.key}
- {name: LYRA_SERVICE_TLS_CA_FILE, value: /etc/lyra/service-tls/ca.crt}
{{- with $tls.name }}
- {name: LYRA_SERVICE_TLS_NAME, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Volume mounts of the files. */}}
{{- define "lyra.serviceAuthVolumeMounts" -}}
- {name: service-token, mountPath: /etc/lyra/service-token, readOnly: true}
{{- if include "lyra.checksOperatorToken" . }}
- {name: operator-token, mountPath: /etc/lyra/operator-token, readOnly: true}
{{- end }}
{{- if .root.Values.serviceAuth.tls.existingSecret }}
- {name: service-tls, mountPath: /etc/lyra/service-tls, readOnly: true}
{{- end }}
{{- end -}}

{{/* Volumes of the files. They follow their Secrets, and processes reload them. */}}
{{- define "lyra.serviceAuthVolumes" -}}
- name: service-token
  secret: {secretName: {{ include "lyra.serviceTokenSecretName" .root }}, defaultMode: 0440, items: [{key: token, path: token}]}
{{- if include "lyra.checksOperatorToken" . }}
- name: operator-token
  secret: {secretName: {{ .root.Values.serviceAuth.operatorToken.existingSecret }}, defaultMode: 0440, items: [{key: token, path: token}]}
{{- end }}
{{- with .root.Values.serviceAuth.tls.existingSecret }}
- name: service-tls
  secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}, {key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end -}}
