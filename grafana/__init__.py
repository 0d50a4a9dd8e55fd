"""Grafana dashboards as code: ``python -m grafana`` writes ``grafana/dashboards/*.json``.

``modelmesh`` is the dashboard that users of KServe ModelMesh know, ``mesh`` the one of this project. Panels are put
together with Grafana's own builders; `grafana.panels` holds what all of them share.
"""
