{{/* How services know each other: files of tokens and certificates. `.`: root, component; `operator` where it checks operators. */}}

{{/* Name of the Secret with the services' token. */}}
{{- define "lyra.serviceTokenSecret" -}}
{{- include "lyra.secretName" (dict "root" . "existing" .Values.serviceAuth.token.existingSecret "suffix" "service-token") -}}
{{- end -}}

{{/* "yes" where this component checks the operators' token. */}}
{{- define "lyra.checksOperators" -}}
{{- if and .root.Values.serviceAuth.operatorToken.existingSecret (has .component (list "language-model" "speech-encoder")) -}}yes{{- end -}}
{{- end -}}

{{/* Variables that lead to the files. */}}
{{- define "lyra.serviceAuthEnv" -}}
{{- $tls := .root.Values.serviceAuth.tls -}}
- {name: LYRA_SERVICE_TOKEN_FILE, value: /etc/lyra/service-token/token}
{{- if include "lyra.checksOperators" . }}
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

{{/* Where they are mounted. */}}
{{- define "lyra.serviceAuthMounts" -}}
- {name: service-token, mountPath: /etc/lyra/service-token, readOnly: true}
{{- if include "lyra.checksOperators" . }}
- {name: operator-token, mountPath: /etc/lyra/operator-token, readOnly: true}
{{- end }}
{{- if .root.Values.serviceAuth.tls.existingSecret }}
- {name: service-tls, mountPath: /etc/lyra/service-tls, readOnly: true}
{{- end }}
{{- end -}}

{{/* The volumes of these mounts. Files change with their Secrets, and processes read them again. */}}
{{- define "lyra.serviceAuthVolumes" -}}
- name: service-token
  secret: {secretName: {{ include "lyra.serviceTokenSecret" .root }}, defaultMode: 0440, items: [{key: token, path: token}]}
{{- if include "lyra.checksOperators" . }}
- name: operator-token
  secret: {secretName: {{ .root.Values.serviceAuth.operatorToken.existingSecret }}, defaultMode: 0440, items: [{key: token, path: token}]}
{{- end }}
{{- with .root.Values.serviceAuth.tls.existingSecret }}
- name: service-tls
  secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}, {key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end -}}
