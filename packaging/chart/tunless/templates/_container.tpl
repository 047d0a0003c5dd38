{{/* What both containers have in common. */}}
{{- define "tunless.container" -}}
image: {{ include "tunless.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  # What the datastore calls this node.
  - name: NODE_NAME
    valueFrom: {fieldRef: {apiVersion: v1, fieldPath: spec.nodeName}}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsUser: 0
  runAsGroup: 0
  capabilities:
    drop: [ALL]
    # docs/kubernetes.md has what each is for.
    add: [BPF, NET_ADMIN, NET_RAW, PERFMON]
  seccompProfile:
    {{- toYaml .Values.securityContext.seccompProfile | nindent 4 }}
  seLinuxOptions:
    {{- toYaml .Values.securityContext.seLinuxOptions | nindent 4 }}
  {{- if semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version }}
  appArmorProfile:
    {{- toYaml .Values.securityContext.appArmorProfile | nindent 4 }}
  {{- end }}
volumeMounts:
  - {name: bpffs, mountPath: /sys/fs/bpf, mountPropagation: HostToContainer}
  - {name: run, mountPath: /run/tunless}
  - {name: sysctls, mountPath: /host/proc/sys/net}
  # As a file by itself: a pod keeps what it started with, and the next one gets the new text.
  - {name: config, mountPath: /etc/tunless/config.yaml, subPath: config.yaml, readOnly: true}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* A probe: the root, the path, the values. */}}
{{- define "tunless.probe" -}}
{{- $root := index . 0 -}}
httpGet:
  host: {{ include "tunless.probeHost" $root | quote }}
  port: {{ include "tunless.port" $root }}
  path: {{ index . 1 }}
{{ toYaml (index . 2) }}
{{- end -}}

{{/* As Kubernetes before 1.30 has it. */}}
{{- define "tunless.appArmorAnnotation" -}}
{{- with .Values.securityContext.appArmorProfile -}}
{{- if eq .type "Localhost" -}}localhost/{{ .localhostProfile }}
{{- else if eq .type "RuntimeDefault" -}}runtime/default
{{- else -}}unconfined
{{- end -}}
{{- end -}}
{{- end -}}
