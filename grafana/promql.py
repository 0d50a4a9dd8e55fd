"""PromQL of the mesh's own dashboards."""

from collections.abc import Sequence

from grafana.panels import Query

#: Series of the chosen mesh. Where there is no such label, `.*` fits its absence.
MESH = 'namespace=~"$namespace",job=~"$job"'
#: Series of the chosen instances. The label that tells instances apart is the user's choice, too: ``pod`` in
#: Kubernetes, ``instance`` elsewhere.
CHOSEN = f'{MESH},$by=~"$instance"'
BY_INSTANCE = "{{$by}}"

QUANTILES = ("0.5", "0.95", "0.99")


def series(name: str, *matchers: str, of: str = CHOSEN) -> str:
    """Series by the name without ``modelmesh_``."""
    return f"modelmesh_{name}{{{','.join((of, *matchers))}}}"


def rate(name: str, *matchers: str) -> str:
    """Per second."""
    return f"rate({series(name, *matchers)}[$__rate_interval])"


def total(expr: str, *by: str) -> str:
    """The sum, or one for each value of the labels."""
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def increase(name: str, *matchers: str) -> str:
    """Over one step of the panel, exactly: bars add up. The step must hold two scrapes."""
    return f"increase({series(name, *matchers)}[$__interval])"


def quantile(share: str, name: str, *matchers: str, by: Sequence[str] = ()) -> str:
    """Of a histogram's observations, estimated from its buckets."""
    return f"histogram_quantile({share}, {total(rate(f'{name}_bucket', *matchers), 'le', *by)})"


def quantiles(
    name: str, *matchers: str, shares: Sequence[str] = QUANTILES, exemplars: bool = False
) -> list[Query]:
    """A line for each share: ``p50``, ``p95``...; the last one brings exemplars, if wanted."""
    return [
        Query(
            quantile(share, name, *matchers),
            f"p{float(share) * 100:g}",
            exemplars=exemplars and share == shares[-1],
        )
        for share in shares
    ]


def quantile_by(share: str, name: str, label: str) -> Query:
    """A line for each value of a label."""
    return Query(quantile(share, name, by=(label,)), f"{{{{{label}}}}}")


def mean(name: str, *matchers: str, by: Sequence[str] = ()) -> str:
    """Of a histogram's observations."""
    return f"{total(rate(f'{name}_sum', *matchers), *by)} / {total(rate(f'{name}_count', *matchers), *by)}"


def by_instance(name: str) -> Query:
    """A gauge, one line for each instance."""
    return Query(total(series(name), "$by"), BY_INSTANCE)


def of_leader(name: str, legend: str) -> Query:
    """What only the leader tells, whoever that is."""
    return Query(f"max({series(name, of=MESH)})", legend)
