# Renders a chart by Helm's own engine: a JSON object on standard input, one on standard output.
import json
import sys

import helm_python as helm

ask = json.load(sys.stdin)
answer = {"version": helm.helm_sdk_version()}
try:
    with helm.Chart.load(ask["chart"]) as chart:
        release = {"name": ask["name"], "namespace": ask["namespace"]}
        answer["files"] = chart.render(ask["values"], **release)
    # The oldest that the chart allows, the last without a field that it uses, and the engine's own.
    answer["lint"] = [
        helm.lint(ask["chart"], ask["values"], strict=True, namespace=ask["namespace"], **version)
        for version in ({"kube_version": "v1.25.0"}, {"kube_version": "v1.29.0"}, {})
    ]
except helm.HelmError as error:
    answer["refused"] = str(error)
json.dump(answer, sys.stdout)
