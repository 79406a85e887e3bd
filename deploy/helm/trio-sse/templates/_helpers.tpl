{{- define "trio-sse.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- define "trio-sse.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "trio-sse.labels" -}}
{{ include "trio-sse.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "trio-sse.scheme" -}}
{{ if hasKey .Values.settings "SSE_TLS_CERT" }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}
