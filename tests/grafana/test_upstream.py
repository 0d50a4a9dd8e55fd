"""Users of KServe ModelMesh find in the dashboard of its name what they know: rows, ids, titles, units, variables."""

import re

import pytest

from tests.grafana import boards

#: The panels of KServe ModelMesh's dashboard: id, title, unit and number of queries, by row.
PANELS = {
    "Global Metrics": [
        (82, "Global LRU age", "s", 2),
        (83, "Cluster capacity and utilization", "deckbytes", 2),
        (73, "Number of Pods", "", 1),
        (84, "Model Counts", "locale", 3),
        (71, "Model Counts per Pod", "", 1),
        (86, "Inference API Request Rate", "short", 2),
        (87, "Average Inference Request and Response Sizes", "decbytes", 2),
        (62, "External Inference API Request Rate Per Pod", "short", 1),
        (57, "External Inference API Response Times by Pod (excluding errors)", "ms", 1),
        (63, "Internal Inference API Requests Rate Per Pod", "short", 1),
        (58, "Internal Inference API Response Time By Pod (excluding errors)", "ms", 1),
        (59, "Inference API Queue Delay Time By Pod", "ms", 1),
        (8, "Cache Misses (per 10min)", "", 1),
        (74, "Cache Miss Rate", "percentunit", 1),
        (46, "Cache Miss Delay (average)", "ms", 1),
        (88, "Model Loads/Unloads (per 5min)", "", 4),
        (89, "Loaded Model Sizes", "decbytes", 1),
        (90, "Model Loading Times", "ms", 2),
    ],
    "Deployment Metrics": [
        (16, "Cluster capacity and utilization", "deckbytes", 2),
        (45, "Model Counts", "locale", 2),
        (91, "Number of Pods", "", 1),
        # Two: there it is one, of internal requests, which says that they are external.
        (92, "Inference API Request Rate", "short", 2),
        (65, "Average Inference Request and Response Sizes", "decbytes", 2),
        (22, "Model Loads/Unloads (per 5min)", "", 4),
        (61, "Loaded Model Sizes", "decbytes", 1),
        (47, "Model Loading Times", "ms", 2),
    ],
    "Container Resource Utilization": [
        (48, "ModelMesh Container CPU Usage", "core", 2),
        (50, "Model Mesh Container Memory Usage", "decmbytes", 2),
        (33, "Serving Runtime Container CPU Usage", "core", 2),
        (77, "Serving Runtime Container Memory Usage", "decmbytes", 2),
    ],
}


def test_the_panels_are_those_that_users_know() -> None:
    board = boards.load("modelmesh")
    found: dict[str, list[tuple[int, str, str, int]]] = {}
    for panel in boards.panels(board):
        known = (panel.model["id"], panel.title, panel.unit, len(panel.queries))
        found.setdefault(panel.row, []).append(known)
    assert found == PANELS
    assert sum(map(len, found.values())) == 30
    # A link or bookmark leads here.
    assert (board["uid"], board["title"]) == ("vMm_rt-7z-new", "ModelMesh Dashboard")
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert names == ["DS_PROMETHEUS", "namespace", "servicename", "mm_container", "runtime"]


def test_no_query_names_one_deployment() -> None:
    """There, some have the name of one service in them, and one has lost the sign of a variable."""
    for panel in boards.panels(boards.load("modelmesh")):
        for query in panel.queries:
            assert "modelmesh-serving" not in query
            assert not re.search(r"(?<!\$)\bservicename\b", query), query


@pytest.mark.parametrize("name", ["mesh", "model", "modelmesh"])
def test_panels_can_be_told_apart_and_do_not_overlap(name: str) -> None:
    board = boards.load(name)
    everything = [one for row in board["panels"] for one in (row, *row.get("panels", ()))]
    ids = [one["id"] for one in everything]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for one in everything:
        place = one["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, one["title"]
        assert not taken & cells, one["title"]
        taken |= cells


@pytest.mark.parametrize("name", ["mesh", "model"])
def test_every_panel_says_what_it_means(name: str) -> None:
    for panel in boards.panels(boards.load(name)):
        assert panel.model.get("description"), panel.title
