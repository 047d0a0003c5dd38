{{/* The name of what the chart makes. */}}
{{- define "tunless.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tunless.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tunless.labels" -}}
{{ include "tunless.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "tunless.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "tunless.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "tunless.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where metrics and health are served; empty: nowhere. */}}
{{- define "tunless.listen" -}}
{{- $http := .Values.config.http | default dict -}}
{{- $listen := $http.listen | default "127.0.0.1:9469" -}}
{{- if ne $listen "off" -}}{{- $listen -}}{{- end -}}
{{- end -}}

{{- define "tunless.port" -}}
{{- include "tunless.listen" . | splitList ":" | last -}}
{{- end -}}

{{/* The address that the kubelet asks: loopback, unless the daemon listens at another one only. */}}
{{- define "tunless.probeHost" -}}
{{- $host := include "tunless.listen" . | trimSuffix (printf ":%s" (include "tunless.port" .)) | trimPrefix "[" | trimSuffix "]" -}}
{{- if eq $host "0.0.0.0" -}}127.0.0.1{{- else if eq $host "::" -}}::1{{- else -}}{{- $host -}}{{- end -}}
{{- end -}}

{{/* Whether it asks the API as a pod of the cluster. */}}
{{- define "tunless.asksApi" -}}
{{- $sources := .Values.config.sources | default dict -}}
{{- if hasKey $sources "kubernetes" -}}
{{- if not (dig "kubernetes" "kubeconfig" "" $sources) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tunless.config" -}}
{{ toYaml .Values.config }}
{{- end -}}
